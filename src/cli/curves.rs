//! Latency and throughput over the batch size, as a picture.

use super::plot::{Area, BLUE, Drawn, FAINT, GREY, INK, ORANGE, font, picture, short};
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

/// One network.
pub struct Curve {
    pub name: String,
    pub points: Vec<Point>,
}

/// One batch size of a network.
pub struct Point {
    pub batch: usize,
    /// Median latency of a batch in milliseconds.
    pub p50: f64,
    pub images_per_second: f64,
}

fn colour(curve: usize) -> RGBColor {
    [BLUE, ORANGE, RGBColor(78, 154, 99), RGBColor(155, 95, 176)][curve % 4]
}

/// Text to the right of its place.
const BESIDE: Pos = Pos { h_pos: HPos::Left, v_pos: VPos::Center };

/// An SVG picture of two panels: latency, with logarithmic axes, and throughput; a line a network.
pub fn draw(title: &str, subtitle: &str, curves: &[Curve]) -> String {
    picture((960, 460), title, subtitle, |area| {
        let points = || curves.iter().flat_map(|curve| &curve.points);
        let Some(times) = range(points().map(|p| p.p50)) else { return Ok(()) };
        let most = points().map(|p| p.images_per_second).fold(0.0, f64::max).max(1e-6);
        let (panels, names) = area.split_vertically(360);
        let (left, right) = panels.split_horizontally(480);
        // With so much room on both sides there is at least one of 1, 2, 5, 10...
        let times = times.start.max(1e-6) / 1.6..times.end.max(1e-6) * 1.6;
        let ticks = (-7..12).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
        let ticks = ticks.filter(|tick| times.contains(tick)).collect();
        let times = times.log_scale().with_key_points(ticks);
        panel(&left, "latency of a batch, ms", times, curves, |p| p.p50.max(1e-6))?;
        panel(&right, "images a second", 0.0..1.1 * most, curves, |p| p.images_per_second)?;
        for (i, curve) in curves.iter().enumerate() {
            let (x, y) = (90 + 220 * i as i32, 14);
            names.draw(&Circle::new((x, y), 5, colour(i).filled()))?;
            names.draw(&Text::new(&*curve.name, (x + 12, y), font(INK).pos(BESIDE)))?;
        }
        Ok(())
    })
}

/// The smallest and the largest value; `None` if there are no values.
fn range(values: impl Iterator<Item = f64>) -> Option<Range<f64>> {
    values.fold(None, |range, v| Some(range.map_or(v..v, |r: Range<f64>| r.start.min(v)..r.end.max(v))))
}

/// One figure over the batch size.
fn panel<Y>(area: &Area, title: &str, axis: Y, curves: &[Curve], of: impl Fn(&Point) -> f64) -> Drawn
where
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let mut batches: Vec<f64> = curves.iter().flat_map(|c| &c.points).map(|p| p.batch as f64).collect();
    batches.sort_by(f64::total_cmp);
    batches.dedup();
    let (first, last) = (batches[0], batches[batches.len() - 1]);
    let count = batches.len();
    let across = (first / 1.15..last * 1.15).log_scale().with_key_points(batches);
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .x_label_area_size(48)
        .y_label_area_size(70)
        .build_cartesian_2d(across, axis)?;
    chart
        .configure_mesh()
        .bold_line_style(FAINT)
        .light_line_style(TRANSPARENT)
        .axis_style(GREY)
        .label_style(font(INK))
        .axis_desc_style(font(GREY))
        .x_labels(count)
        .x_label_formatter(&short)
        .y_label_formatter(&short)
        .x_desc("batch")
        .y_desc(title)
        .draw()?;
    for (i, curve) in curves.iter().enumerate() {
        let points = curve.points.iter().map(|p| (p.batch as f64, of(p)));
        chart.draw_series(LineSeries::new(points, colour(i).filled().stroke_width(2)).point_size(4))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_of_odd_samples_hold_numbers_only() {
        let point = |batch, p50| Point { batch, p50, images_per_second: 1e3 * batch as f64 / p50 };
        let curve = |points| Curve { name: "a < b".into(), points };
        for curves in [
            vec![],
            vec![curve(vec![])],
            vec![curve(vec![point(1, 10.0)])],
            vec![curve(vec![Point { batch: 1, p50: 0.0, images_per_second: 0.0 }])],
            vec![curve(vec![point(1, 0.25), point(2, 0.4), point(64, 9.0)]), curve(vec![point(3, 1e4)])],
        ] {
            let svg = draw("title", "c & d", &curves);
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("c &amp; d"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            if curves.iter().any(|curve| !curve.points.is_empty()) {
                let texts = ["a &lt; b", "batch", "latency of a batch, ms", "images a second"];
                assert!(texts.iter().all(|text| svg.contains(text)), "{svg}");
            }
        }
    }
}
