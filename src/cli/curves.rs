//! Latency and throughput over the batch size, as a picture.

use super::plot::{escape, nice};
use std::fmt::Write;

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

const COLOURS: [&str; 4] = ["#4b86c6", "#e07b39", "#4e9a63", "#9b5fb0"];
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 440.0;
const TOP: f64 = 96.0;
const BOTTOM: f64 = 360.0;
const PANEL: f64 = 380.0;

/// An SVG picture of two panels: latency, with logarithmic axes, and throughput; a line a network.
pub fn draw(title: &str, subtitle: &str, curves: &[Curve]) -> String {
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#333">
<rect width="100%" height="100%" fill="#fff"/>
<text x="60" y="32" font-size="19" font-weight="bold">{}</text>
<text x="60" y="53" fill="#777">{}</text>
"##,
        escape(title),
        escape(subtitle),
    );
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let mut batches: Vec<usize> = points().map(|p| p.batch).collect();
    batches.sort_unstable();
    batches.dedup();
    let (Some(&first), Some(&last)) = (batches.first(), batches.last()) else { return svg + "</svg>\n" };
    let across = ((last as f64) / (first as f64)).log2().max(1e-9);
    let share =
        |batch: usize| if first == last { 0.5 } else { (batch as f64 / first as f64).log2() / across };

    let times = points().map(|p| p.p50.log10());
    let low = times.clone().fold(f64::INFINITY, f64::min).floor();
    let high = times.fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
    let latency = Axis {
        left: 70.0,
        title: "latency of a batch, ms",
        ticks: (0..=(high - low) as i32)
            .map(|i| (f64::from(i) / (high - low), low + f64::from(i)))
            .map(|(y, e)| (y, short(10f64.powf(e))))
            .collect(),
        of: Box::new(move |p| (p.p50.log10() - low) / (high - low)),
    };
    let most = points().map(|p| p.images_per_second).fold(0.0, f64::max);
    let step = nice(most.max(1e-6) / 5.0);
    let top = (most / step).ceil().max(1.0) * step;
    let count = (top / step).round() as i32;
    let throughput = Axis {
        left: 550.0,
        title: "images a second",
        ticks: (0..=count).map(|i| (f64::from(i) / f64::from(count), short(f64::from(i) * step))).collect(),
        of: Box::new(move |p| p.images_per_second / top),
    };
    for axis in [latency, throughput] {
        axis.draw(&mut svg, curves, &batches, &share);
    }
    for (i, curve) in curves.iter().enumerate() {
        let (x, colour) = (70.0 + 220.0 * i as f64, COLOURS[i % COLOURS.len()]);
        let name = escape(&curve.name);
        add(
            &mut svg,
            format!(
                r##"<circle cx="{x}" cy="426" r="5" fill="{colour}"/><text x="{}" y="430">{name}</text>"##,
                x + 12.0
            ),
        );
    }
    svg + "</svg>\n"
}

/// A panel: its place, the ticks of its vertical axis, and where a point lies on that, from 0 to 1.
struct Axis {
    left: f64,
    title: &'static str,
    ticks: Vec<(f64, String)>,
    of: Box<dyn Fn(&Point) -> f64>,
}

impl Axis {
    fn draw(&self, svg: &mut String, curves: &[Curve], batches: &[usize], share: &dyn Fn(usize) -> f64) {
        let (left, right) = (self.left, self.left + PANEL);
        let (x, y) = (|s: f64| left + s * PANEL, |s: f64| BOTTOM - s * (BOTTOM - TOP));
        add(svg, format!(r##"<text x="{left}" y="{}" fill="#777">{}</text>"##, TOP - 14.0, self.title));
        for (at, label) in &self.ticks {
            let at = y(*at);
            add(svg, format!(r##"<path d="M{left} {at:.1}H{right}" stroke="#e6e6e6"/>"##));
            add(
                svg,
                format!(
                    r##"<text x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"##,
                    left - 7.0,
                    at + 4.0
                ),
            );
        }
        for &batch in batches {
            let at = x(share(batch));
            add(svg, format!(r##"<path d="M{at:.1} {BOTTOM}v5" stroke="#999"/>"##));
            add(
                svg,
                format!(r##"<text x="{at:.1}" y="{}" text-anchor="middle">{batch}</text>"##, BOTTOM + 20.0),
            );
        }
        let middle = (left + right) / 2.0;
        add(
            svg,
            format!(
                r##"<text x="{middle}" y="{}" text-anchor="middle" fill="#777">batch</text>"##,
                BOTTOM + 40.0
            ),
        );
        for (i, curve) in curves.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let places: Vec<(f64, f64)> =
                curve.points.iter().map(|p| (x(share(p.batch)), y((self.of)(p)))).collect();
            let line: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            add(
                svg,
                format!(
                    r##"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"##,
                    line.join(" ")
                ),
            );
            for (x, y) in places {
                add(svg, format!(r##"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{colour}"/>"##));
            }
        }
    }
}

fn add(svg: &mut String, line: String) {
    writeln!(svg, "{line}").expect("a String takes all");
}

/// A tick's number without digits that say nothing.
fn short(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
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
            vec![curve(vec![point(1, 0.25), point(2, 0.4), point(64, 9.0)]), curve(vec![point(3, 1e4)])],
        ] {
            let svg = draw("title", "c & d", &curves);
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("c &amp; d"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn ticks_are_short() {
        assert_eq!([0.1, 1.0, 100.0, 2500.0].map(short), ["0.1", "1", "100", "2500"]);
    }
}
