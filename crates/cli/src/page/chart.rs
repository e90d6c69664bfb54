//! A small chart of numbers over time: steps, since what was seen holds until the next look or the end of the watch, and
//! labels at their ends.

use super::html::{Element, el};
use crate::render::time;

/// The plot's own coordinates; it is stretched to the room there is.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 100.0;
/// The height at which it is shown, and what a label takes of it.
const SHOWN: f64 = 84.0;
const LABEL: f64 = 14.0;

/// One line of a chart.
#[derive(Debug)]
pub(super) struct Series {
    /// What it is; empty where the chart has one line only.
    pub(super) label: String,
    /// When, in microseconds, and how many.
    pub(super) points: Vec<(u64, f64)>,
}

/// A chart.
#[derive(Debug)]
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) series: Vec<Series>,
    /// How a number is written.
    pub(super) unit: fn(f64) -> String,
    /// Above which no number can be, where that is near enough to be shown.
    pub(super) limit: Option<f64>,
}

impl Chart {
    fn max(&self) -> f64 {
        let values = self.series.iter().flat_map(|series| &series.points).map(|point| point.1);
        values.chain(self.limit).fold(0.0, f64::max)
    }

    /// Nothing where there is no line to draw.
    pub(super) fn draw(&self, window_us: u64) -> Option<Element> {
        let max = self.max();
        if max <= 0.0 || self.series.iter().all(|series| series.points.len() < 2) {
            return None;
        }
        let x = |at_us: u64| (at_us as f64 / window_us.max(1) as f64).clamp(0.0, 1.0) * WIDTH;
        let y = |value: f64| HEIGHT - (value / max).clamp(0.0, 1.0) * HEIGHT;
        let steps = |series: &Series| {
            let mut path = String::new();
            for (place, &(at_us, value)) in series.points.iter().enumerate() {
                let (x, y) = (x(at_us), y(value));
                path += &if place == 0 { format!("M{x:.1} {y:.1}") } else { format!("H{x:.1}V{y:.1}") };
            }
            format!("{path}H{WIDTH:.1}")
        };
        let lines = self.series.iter().enumerate();
        let lines =
            lines.map(|(place, series)| el("path").class(format!("line c{}", place % 6)).with("d", steps(series)));
        // What is below the only line is its own.
        let area = match self.series.as_slice() {
            [only] => only.points.first().map(|first| {
                let path = format!("{}V{HEIGHT}H{:.1}Z", steps(only), x(first.0));
                el("path").class("area").with("d", path)
            }),
            _ => None,
        };
        let limit =
            self.limit.map(|limit| el("path").class("limit").with("d", format!("M0 {y:.1}H{WIDTH}", y = y(limit))));
        let grid = [0.0, HEIGHT / 2.0, HEIGHT].map(|y| el("path").class("grid").with("d", format!("M0 {y}H{WIDTH}")));
        let plot = el("svg")
            .class("plot")
            .with("viewBox", format!("0 0 {WIDTH} {HEIGHT}"))
            .with("preserveAspectRatio", "none")
            .with("role", "img")
            .with("aria-label", self.in_words())
            .children(grid)
            .children(area)
            .children(limit)
            .children(lines);
        let times = el("p")
            .class("times")
            .with("aria-hidden", "true")
            .children([("0".to_owned()), time(window_us)].map(|text| el("span").text(text)));
        let scale = el("small").text(format!("0 to {}", (self.unit)(max)));
        Some(
            el("figure")
                .class("chart")
                .child(el("figcaption").text(self.title).child(scale))
                .child(el("div").class("plot-area").child(plot).child(self.labels(max)))
                .child(times),
        )
    }

    /// The name and the last number of each line, at its end, none over another.
    fn labels(&self, max: f64) -> Element {
        let mut labels: Vec<(f64, usize, String)> = Vec::new();
        for (place, series) in self.series.iter().enumerate() {
            let Some(&(_, last)) = series.points.last() else { continue };
            let text = format!("{} {}", series.label, (self.unit)(last));
            labels.push(((1.0 - last / max).clamp(0.0, 1.0) * SHOWN, place, text.trim().to_owned()));
        }
        labels.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Downwards, and then up from the bottom where that has pushed one out.
        let mut free = LABEL / 2.0;
        for label in &mut labels {
            label.0 = label.0.max(free);
            free = label.0 + LABEL;
        }
        let mut free = SHOWN - LABEL / 2.0 + 2.0;
        for label in labels.iter_mut().rev() {
            label.0 = label.0.min(free);
            free = label.0 - LABEL;
        }
        let draw = |(y, place, text): (f64, usize, String)| {
            let mark = el("rect").class(format!("mark c{}", place % 6));
            let mark = mark.with("x", "4").with("y", format!("{:.1}", y - 4.0)).with("width", "8").with("height", "8");
            el("g").child(mark).child(el("text").with("x", "16").with("y", format!("{:.1}", y + 4.0)).text(text))
        };
        el("svg").class("labels").with("aria-hidden", "true").children(labels.into_iter().map(draw))
    }

    fn in_words(&self) -> String {
        let line = |series: &Series| {
            let unit = self.unit;
            let most = series.points.iter().map(|point| point.1).fold(0.0, f64::max);
            let (first, last) = (series.points.first(), series.points.last());
            let (first, last) = (first.map_or(0.0, |point| point.1), last.map_or(0.0, |point| point.1));
            let text = format!("{} from {} to {}, at most {}", series.label, unit(first), unit(last), unit(most));
            text.trim().to_owned()
        };
        let lines: Vec<String> = self.series.iter().map(line).collect();
        format!("{}: {}", self.title, lines.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[&[f64]]) -> Chart {
        let series = values.iter().map(|values| Series {
            label: "x".to_owned(),
            points: values.iter().enumerate().map(|(at, value)| (at as u64 * 10, *value)).collect(),
        });
        Chart { title: "t", series: series.collect(), unit: |value| format!("{value}"), limit: None }
    }

    #[test]
    fn steps_go_from_the_bottom_to_the_most() {
        let svg = chart(&[&[0.0, 4.0, 2.0]]).draw(40).unwrap().render(10_000).0;
        assert!(svg.contains("M0.0 100.0H250.0V0.0H500.0V50.0H1000.0"), "{svg}");
        assert!(svg.contains("t: x from 0 to 2, at most 4"), "{svg}");
    }

    #[test]
    fn nothing_is_no_chart() {
        assert!(chart(&[&[0.0, 0.0]]).draw(20).is_none());
        assert!(chart(&[&[1.0]]).draw(20).is_none());
        assert!(chart(&[]).draw(20).is_none());
    }

    #[test]
    fn labels_are_not_over_each_other() {
        let svg = chart(&[&[9.0, 1.0], &[0.0, 1.0], &[0.0, 1.0]]).labels(9.0).render(10_000).0;
        let at: Vec<f64> =
            svg.split("x=\"16\" y=\"").skip(1).map(|part| part.split('"').next().unwrap().parse().unwrap()).collect();
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= LABEL - 0.1), "{at:?}");
        assert!(at.iter().all(|y| *y > 0.0 && *y < SHOWN + LABEL), "{at:?}");
    }
}
