//! Latencies as a picture.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// The `q`-quantile of sorted values, interpolated linearly between ranks.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

/// Part of a picture.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Drawing into a string cannot fail. Errors that remain are ranges and fonts that plotters refuses.
pub type Drawn = Result<(), Box<dyn std::error::Error>>;

pub const BLUE: RGBColor = RGBColor(75, 134, 198);
pub const ORANGE: RGBColor = RGBColor(224, 123, 57);
pub const INK: RGBColor = RGBColor(51, 51, 51);
pub const GREY: RGBColor = RGBColor(119, 119, 119);
pub const FAINT: RGBColor = RGBColor(230, 230, 230);

const FONT: &str = "Helvetica, Arial, sans-serif";

/// Font size of axes and legends. Plotters includes ascenders and descenders: this is an SVG font size of 13.
pub fn font(colour: RGBColor) -> TextStyle<'static> {
    (FONT, 16).with_color(colour).into_text_style(&(0, 0))
}

fn bold(size: i32) -> TextStyle<'static> {
    FontDesc::from((FONT, size)).style(FontStyle::Bold).color(&INK)
}

/// A tick's number without trailing zeros.
pub fn short(value: &f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// An SVG picture with two lines of text above what `draw` puts into the rest.
pub fn picture(size: (u32, u32), title: &str, subtitle: &str, draw: impl FnOnce(Area) -> Drawn) -> String {
    let mut svg = String::new();
    let drawn = || -> Drawn {
        let all = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        all.fill(&WHITE)?;
        let (head, rest) = all.split_vertically(64);
        head.draw(&Text::new(title, (24, 16), bold(23)))?;
        head.draw(&Text::new(subtitle, (24, 42), font(GREY)))?;
        draw(rest)?;
        Ok(all.present()?)
    };
    drawn().expect("ranges are finite and not empty, and SVG needs no fonts");
    svg
}

/// An SVG picture of how latencies (in milliseconds, in any order) are distributed: a histogram, the share of runs that
/// took at most so long, and p50, p90, p99.
pub fn distribution(title: &str, subtitle: &str, ms: &[f64]) -> String {
    let mut sorted = ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    let runs = if ms.len() == 1 { "run" } else { "runs" };
    let title = format!("{title}: photo to people, {} {runs}", ms.len());
    picture((860, 440), &title, subtitle, |area| draw_distribution(&area, &sorted))
}

fn draw_distribution(area: &Area, sorted: &[f64]) -> Drawn {
    let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
    let room = 0.04 * (max - min).max(0.02 * max).max(1e-3);
    let (low, high) = ((min - room).max(0.0), max + room);

    // Twice as many bins as Sturges's rule gives, because latencies have long tails.
    let bins = (2 * (1 + sorted.len().ilog2() as usize)).clamp(8, 60);
    let width = (high - low) / bins as f64;
    let mut counts = vec![0u32; bins];
    for v in sorted {
        counts[(((v - low) / width) as usize).min(bins - 1)] += 1;
    }
    let most = *counts.iter().max().expect("at least 8 bins");

    let mut chart = ChartBuilder::on(area)
        .margin_top(44)
        .margin_bottom(10)
        .margin_left(14)
        .margin_right(14)
        .x_label_area_size(48)
        .y_label_area_size(70)
        .right_y_label_area_size(70)
        .build_cartesian_2d(low..high, 0.0..1.08 * f64::from(most))?
        .set_secondary_coord(low..high, 0.0..108.0);
    let whole = |y: &f64| if y.fract() == 0.0 { short(y) } else { String::new() };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .axis_style(GREY)
        .label_style(font(INK))
        .axis_desc_style(font(GREY))
        .x_labels(9)
        .y_labels(6)
        .x_label_formatter(&short)
        .y_label_formatter(&whole)
        .x_desc("milliseconds")
        .y_desc("runs in a bin")
        .draw()?;
    chart
        .configure_secondary_axes()
        .axis_style(GREY)
        .label_style(font(ORANGE))
        .axis_desc_style(font(ORANGE))
        .y_labels(6)
        .y_label_formatter(&short)
        .y_desc("runs that took at most so long, %")
        .draw()?;

    let bars = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(i, &count)| {
        let left = low + i as f64 * width;
        let mut bar = Rectangle::new([(left, 0.0), (left + width, count.into())], BLUE.mix(0.8).filled());
        bar.set_margin(0, 0, 1, 1);
        bar
    });
    chart.draw_series(bars)?;

    let mut steps = vec![(low, 0.0)];
    let mut share = 0.0;
    for (i, &v) in sorted.iter().enumerate() {
        steps.push((v, share));
        share = 100.0 * (i + 1) as f64 / sorted.len() as f64;
        steps.push((v, share));
    }
    steps.push((high, share));
    chart.draw_secondary_series(LineSeries::new(steps, ORANGE.stroke_width(2)))?;

    let top = 1.08 * f64::from(most);
    let quantiles = [0.5, 0.9, 0.99].map(|q| quantile(sorted, q));
    let labels = labels(quantiles.map(|v| (v - low) / (high - low)));
    for ((name, v), Label { left, line }) in ["p50", "p90", "p99"].into_iter().zip(quantiles).zip(labels) {
        let line = 6 + 15 * line as i32;
        chart.draw_series(DashedLineSeries::new([(v, 0.0), (v, top)], 4, 3, INK.into()))?;
        let (side, shift) = if left { (HPos::Right, -5) } else { (HPos::Left, 5) };
        let mark = EmptyElement::at((v, top))
            + PathElement::new([(0, 0), (0, -line - 6)], INK)
            + Text::new(
                format!("{name} {v:.2} ms"),
                (shift, -line),
                bold(16).pos(Pos::new(side, VPos::Center)),
            );
        chart.plotting_area().draw(&mark)?;
    }
    Ok(())
}

/// Where a mark's name and value stand.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Label {
    /// To the left of the mark rather than to its right.
    left: bool,
    /// Counted upwards.
    line: usize,
}

/// Places labels, each on a line of its own, so that they stay in the picture and none crosses another mark: marks that
/// are closer than a label is wide have theirs on the same side, and one that reaches over others stands above them. The
/// marks are ascending, from 0 to 1.
fn labels(marks: [f64; 3]) -> [Label; 3] {
    /// Width of a label.
    const ROOM: f64 = 0.19;
    let mut labels = [2, 1, 0].map(|line| Label { left: false, line });
    let mut first = 0;
    for last in 0..3 {
        if last < 2 && marks[last + 1] - marks[last] < ROOM {
            continue;
        }
        if marks[last] > 1.0 - ROOM {
            let lines: Vec<usize> = labels[first..=last].iter().rev().map(|label| label.line).collect();
            for (label, line) in labels[first..=last].iter_mut().zip(lines) {
                *label = Label { left: true, line };
            }
        }
        first = last + 1;
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        let sorted = [1.0, 2.0, 4.0];
        assert_eq!(quantile(&sorted, 0.0), 1.0);
        assert_eq!(quantile(&sorted, 0.5), 2.0);
        assert_eq!(quantile(&sorted, 0.75), 3.0);
        assert_eq!(quantile(&sorted, 1.0), 4.0);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!([0.1, 1.0, 100.0, 2500.0].map(|v| short(&v)), ["0.1", "1", "100", "2500"]);
    }

    #[test]
    fn labels_cross_no_marks() {
        let steps = (0..=20).map(|i| f64::from(i) / 20.0);
        let all = steps.clone().flat_map(|a| steps.clone().map(move |b| (a, b)));
        for (a, b, c) in all.flat_map(|(a, b)| (0..=20).map(move |c| (a, b, f64::from(c) / 20.0))) {
            let marks = [a, b, c];
            if !marks.is_sorted() {
                continue;
            }
            let labels = labels(marks);
            for (i, Label { left, line }) in labels.into_iter().enumerate() {
                let (from, to) = if left { (marks[i] - 0.18, marks[i]) } else { (marks[i], marks[i] + 0.18) };
                assert!(from >= 0.0 && to <= 1.0, "{marks:?}: {labels:?}");
                for j in (0..3).filter(|&j| j != i) {
                    assert_ne!(line, labels[j].line, "{marks:?}");
                    let crosses = (from..=to).contains(&marks[j]) && labels[j].line > line;
                    assert!(!crosses || marks[j] == marks[i], "{marks:?}: {labels:?}");
                }
            }
        }
    }

    #[test]
    fn pictures_of_odd_samples_hold_numbers_only() {
        for ms in [&[5.0][..], &[3.0, 3.0, 3.0], &[0.001, 1000.0], &[0.0], &[1e-9], &[1e9, 1e9 + 1.0]] {
            let svg = distribution("a < b", "c & d", ms);
            assert!(svg.contains("a &lt; b") && svg.contains("c &amp; d"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            let p99 = format!("p99 {:.2} ms", quantile(ms, 0.99));
            assert!(["milliseconds", "runs in a bin", &p99].iter().all(|text| svg.contains(text)), "{svg}");
        }
    }
}
