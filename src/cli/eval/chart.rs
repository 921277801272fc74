//! AP against speed, as a picture.

use crate::cli::plot::{BLUE, FAINT, GREY, INK, font, picture, short};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::ops::Range;

/// One run.
pub struct Point {
    /// The value that was varied.
    pub label: String,
    /// Photos a second.
    pub speed: f64,
    pub ap: f64,
}

/// Text above or below its place: neighbours' labels are on different sides.
const SIDES: [(Pos, i32); 2] = [
    (Pos { h_pos: HPos::Center, v_pos: VPos::Bottom }, -8),
    (Pos { h_pos: HPos::Center, v_pos: VPos::Top }, 8),
];

/// An SVG picture of the points, joined in their order.
pub fn draw(title: &str, subtitle: &str, points: &[Point]) -> String {
    picture((860, 460), title, subtitle, |area| {
        let across = range(points.iter().map(|point| point.speed), 0.12);
        let up = range(points.iter().map(|point| point.ap), 0.15);
        let mut chart = ChartBuilder::on(&area)
            .margin(14)
            .x_label_area_size(48)
            .y_label_area_size(70)
            .build_cartesian_2d(across, up)?;
        chart
            .configure_mesh()
            .bold_line_style(FAINT)
            .light_line_style(TRANSPARENT)
            .axis_style(GREY)
            .label_style(font(INK))
            .axis_desc_style(font(GREY))
            .x_label_formatter(&short)
            .y_label_formatter(&short)
            .x_desc("photos a second (engine, median)")
            .y_desc("AP")
            .draw()?;
        let places = points.iter().map(|point| (point.speed, point.ap));
        chart.draw_series(LineSeries::new(places, BLUE.filled().stroke_width(2)).point_size(4))?;
        for (i, point) in points.iter().enumerate() {
            let (side, distance) = SIDES[i % 2];
            let label = EmptyElement::at((point.speed, point.ap))
                + Text::new(point.label.clone(), (0, distance), font(INK).pos(side));
            chart.plotting_area().draw(&label)?;
        }
        Ok(())
    })
}

/// The values with room around them, never empty, and not below 0.
fn range(values: impl Iterator<Item = f64>, room: f64) -> Range<f64> {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    let room = room * (high - low).max(0.05 * high).max(1e-3);
    (low - room).max(0.0)..high + room
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_of_odd_samples_hold_numbers_only() {
        let point = |label: &str, speed, ap| Point { label: label.into(), speed, ap };
        for points in [
            vec![],
            vec![point("a < b", 1.0, 0.0)],
            vec![point("x", 5.0, 0.3), point("y", 5.0, 0.3)],
            vec![point("x", 1e9, 1.0), point("y", 1e-3, 0.0), point("z", 3.0, 0.5)],
        ] {
            let svg = draw("title", "c & d", &points);
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("c &amp; d"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert!(points.iter().all(|point| svg.contains(&point.label.replace('<', "&lt;"))), "{svg}");
        }
    }
}
