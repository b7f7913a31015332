//! The page's plots: SVG of attributes alone, as the policy allows no inline style. Each has its figures in words beside it,
//! so that nobody needs to see it.

use std::fmt::Write as _;

use super::html::escape;
use super::recent::Minute;

const HEIGHT: u64 = 60;
const STEP: u64 = 6;
const BAR: u64 = 4;
const LEAST_WIDTH: u64 = 360;

/// Bars of milliseconds, oldest first, against the line of what was promised.
pub fn times(title: &str, values: &[u64], promised: u64) -> String {
    let Some(most) = values.iter().copied().max() else {
        return format!("<p>{}: none in the last hour.</p>", escape(title));
    };
    let scale = most.max(promised).max(1);
    let caption = format!(
        "{title}, last hour: {} measured, the slowest {most} ms, promised under {promised} ms.",
        values.len()
    );
    let mut drawing = Drawing::new(title, &caption, values.len());
    for (n, value) in (0_u64..).zip(values) {
        let class = if *value > promised { "bad" } else { "bar" };
        drawing.bar(n, 0, *value, scale, class);
    }
    drawing.line(promised, scale);
    drawing.end()
}

/// The requests of an hour, a bar for each minute: failed below, then refused, then good.
pub fn outcomes(title: &str, minutes: &[Minute]) -> String {
    let total = |minute: &Minute| {
        minute
            .good
            .saturating_add(minute.refused)
            .saturating_add(minute.failed)
    };
    let sum = |of: fn(&Minute) -> u64| minutes.iter().map(of).fold(0, u64::saturating_add);
    let caption = format!(
        "{title}: {} answered, {} refused, {} failed.",
        sum(|minute| minute.good),
        sum(|minute| minute.refused),
        sum(|minute| minute.failed)
    );
    let scale = minutes.iter().map(total).max().unwrap_or(0).max(1);
    let mut drawing = Drawing::new(title, &caption, minutes.len());
    for (n, minute) in (0_u64..).zip(minutes) {
        let parts = [
            (minute.failed, "bad"),
            (minute.refused, "refused"),
            (minute.good, "bar"),
        ];
        let mut below = 0;
        for (count, class) in parts {
            if count > 0 {
                below += drawing.bar(n, below, count, scale, class);
            }
        }
    }
    drawing.end()
}

struct Drawing {
    width: u64,
    html: String,
}

impl Drawing {
    fn new(title: &str, caption: &str, bars: usize) -> Self {
        let width = (bars as u64).saturating_mul(STEP).max(LEAST_WIDTH);
        let html = format!(
            "<figure><figcaption>{}</figcaption><svg role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {width} {HEIGHT}\" \
             width=\"{width}\" height=\"{HEIGHT}\">",
            escape(caption),
            escape(title),
        );
        Self { width, html }
    }

    /// The n-th bar, on top of what is `below` already; how high it is. What there is can be seen.
    fn bar(&mut self, n: u64, below: u64, value: u64, scale: u64, class: &str) -> u64 {
        let height = (value.saturating_mul(HEIGHT) / scale.max(1)).clamp(1, HEIGHT);
        let y = HEIGHT.saturating_sub(below.saturating_add(height));
        let _ = write!(
            self.html,
            "<rect class=\"{class}\" x=\"{}\" y=\"{y}\" width=\"{BAR}\" height=\"{height}\"/>",
            n.saturating_mul(STEP)
        );
        height
    }

    fn line(&mut self, value: u64, scale: u64) {
        let y = HEIGHT.saturating_sub(value.saturating_mul(HEIGHT) / scale.max(1));
        let _ = write!(
            self.html,
            "<line x1=\"0\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\"/>",
            self.width
        );
    }

    fn end(self) -> String {
        self.html + "</svg></figure>"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_stays_within_its_frame() {
        for values in [
            vec![0],
            vec![1, 5000, 3],
            vec![u64::MAX / 100; 3],
            vec![u64::MAX; 2],
        ] {
            let html = times("Lag", &values, 1000);
            assert_eq!(html.matches("<rect").count(), values.len());
            assert!(!html.contains("y=\"-"), "{html}");
        }
        let minute = |good, refused, failed| Minute {
            good,
            refused,
            failed,
        };
        let html = outcomes(
            "Requests",
            &[minute(0, 0, 0), minute(1000, 1, 1), minute(0, 0, u64::MAX)],
        );
        assert_eq!(
            html.matches("<rect").count(),
            4,
            "what is little can be seen: {html}"
        );
        assert!(!html.contains("y=\"-"), "{html}");
    }

    #[test]
    fn nothing_that_is_shown_can_become_markup() {
        let evil = "<script>\"'&";
        for html in [times(evil, &[1], 1), times(evil, &[], 1), outcomes(evil, &[])] {
            assert!(
                html.contains("&lt;script&gt;&quot;&#39;&amp;") && !html.contains("<script"),
                "{html}"
            );
        }
    }

    #[test]
    fn the_figures_are_said_in_words() {
        assert!(
            times("Lag", &[5, 1200], 1000)
                .contains("Lag, last hour: 2 measured, the slowest 1200 ms, promised under 1000 ms.")
        );
        let minutes = [
            Minute {
                good: 2,
                refused: 1,
                failed: 0,
            },
            Minute {
                good: 1,
                refused: 0,
                failed: 4,
            },
        ];
        assert!(outcomes("Requests", &minutes).contains("Requests: 3 answered, 1 refused, 4 failed."));
    }
}
