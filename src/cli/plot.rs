//! Latencies as a picture.

use std::fmt::Write;

/// The `q`-quantile of sorted values, interpolated linearly between ranks.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 800.0;
const TOP: f64 = 112.0;
const BOTTOM: f64 = 360.0;

/// An SVG picture of how latencies (in milliseconds, in any order) are distributed: a histogram, the share of runs that
/// took at most so long, and p50, p90, p99.
pub fn distribution(title: &str, subtitle: &str, ms: &[f64]) -> String {
    let mut sorted = ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
    let step = nice((max - min).max(0.02 * max).max(1e-6) / 5.0);
    let (low, high) = ((min / step).floor() * step, ((max / step).floor() + 1.0) * step);
    let x = |v: f64| LEFT + (v - low) / (high - low) * (RIGHT - LEFT);
    let y = |share: f64| BOTTOM - share * (BOTTOM - TOP);

    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="#333">
<rect width="100%" height="100%" fill="#fff"/>
<text x="{LEFT}" y="32" font-size="19" font-weight="bold">{}</text>
<text x="{LEFT}" y="53" fill="#777">{}</text>
"##,
        escape(&format!("{title}: photo to people, {} runs", ms.len())),
        escape(subtitle),
    );
    let mut add = |line: String| writeln!(svg, "{line}").expect("a String takes all");
    for i in 0..=4 {
        let share = f64::from(i) / 4.0;
        add(format!(r##"<path d="M{LEFT} {0:.1}H{RIGHT}" stroke="#e6e6e6"/>"##, y(share)));
        let percent = 25 * i;
        add(format!(
            r##"<text x="{:.1}" y="{:.1}" fill="#c2571a">{percent} %</text>"##,
            RIGHT + 8.0,
            y(share) + 4.0
        ));
    }
    let digits = (-step.log10().floor()).max(0.0) as usize;
    let ticks = ((high - low) / step).round() as usize;
    for i in 0..=ticks {
        let v = low + i as f64 * step;
        add(format!(r##"<path d="M{0:.1} {BOTTOM}v5" stroke="#999"/>"##, x(v)));
        add(format!(
            r##"<text x="{:.1}" y="{:.1}" text-anchor="middle">{v:.digits$}</text>"##,
            x(v),
            BOTTOM + 21.0
        ));
    }
    add(format!(
        r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" fill="#777">milliseconds</text>"##,
        (LEFT + RIGHT) / 2.0,
        HEIGHT - 16.0
    ));

    // Twice as many bins as Sturges says: latencies have tails.
    let bins = (2 * (1 + sorted.len().ilog2() as usize)).clamp(8, 60);
    let mut counts = vec![0usize; bins];
    for v in &sorted {
        counts[(((v - low) / (high - low) * bins as f64) as usize).min(bins - 1)] += 1;
    }
    let most = *counts.iter().max().expect("at least 8 bins");
    let width = (RIGHT - LEFT) / bins as f64;
    for (i, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let top = y(0.92 * count as f64 / most as f64);
        add(format!(
            r##"<rect x="{:.1}" y="{top:.1}" width="{:.1}" height="{:.1}" rx="2" fill="#4b86c6" fill-opacity="0.8"><title>{count} runs</title></rect>"##,
            LEFT + i as f64 * width + 1.0,
            width - 2.0,
            BOTTOM - top
        ));
    }
    add(format!(r##"<path d="M{LEFT} {BOTTOM}H{RIGHT}" stroke="#999"/>"##));

    let mut line = format!("M{LEFT} {BOTTOM}");
    for (i, &v) in sorted.iter().enumerate() {
        write!(line, "H{:.1}V{:.1}", x(v), y((i + 1) as f64 / sorted.len() as f64))
            .expect("a String takes all");
    }
    add(format!(
        r##"<path d="{line}H{RIGHT}" fill="none" stroke="#e07b39" stroke-width="2" stroke-linejoin="round"/>"##
    ));

    // Labels of close marks stand on two lines, and the last may stand to the left of its mark.
    for (i, (name, q)) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)].into_iter().enumerate() {
        let v = quantile(&sorted, q);
        let (at, label) = (x(v), TOP - 8.0 - 15.0 * (2 - i) as f64);
        let (anchor, shift) = if at > RIGHT - 90.0 { ("end", -4.0) } else { ("start", 4.0) };
        add(format!(
            r##"<path d="M{at:.1} {:.1}V{BOTTOM}" stroke="#333" stroke-dasharray="4 3"/>"##,
            label - 10.0
        ));
        add(format!(
            r##"<text x="{:.1}" y="{label:.1}" text-anchor="{anchor}" font-weight="bold" paint-order="stroke" stroke="#fff" stroke-width="5">{name} {v:.2} ms</text>"##,
            at + shift
        ));
    }
    svg + "</svg>\n"
}

/// 1, 2 or 5 times a power of ten, at least `x`.
pub fn nice(x: f64) -> f64 {
    let power = 10f64.powf(x.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|s| s * power);
    steps.into_iter().find(|&s| s >= x * 0.999).unwrap_or(10.0 * power)
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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
    fn pictures_of_odd_samples_hold_numbers_only() {
        for ms in [&[5.0][..], &[3.0, 3.0, 3.0], &[0.001, 1000.0], &[0.0]] {
            let svg = distribution("a < b", "c & d", ms);
            assert!(svg.contains("a &lt; b") && svg.contains("c &amp; d"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
