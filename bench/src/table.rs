//! Tables in Markdown, to be pasted into docs/benchmarks.md.

use std::fmt;

use crate::cases::Samples;

/// One number of each case.
#[derive(Clone, Copy)]
pub(crate) struct Column {
    pub(crate) title: &'static str,
    /// Its name in what the cases print.
    pub(crate) number: &'static str,
    pub(crate) decimals: usize,
    /// Whether the ratio to the reference is shown.
    pub(crate) ratio: bool,
}

pub(crate) struct Table<'a> {
    pub(crate) title: &'a str,
    pub(crate) columns: &'a [Column],
    pub(crate) reference: &'a str,
    pub(crate) rows: &'a [(&'a str, &'a Samples)],
}

impl Table<'_> {
    fn median(&self, row: &str, column: &Column) -> Option<f64> {
        let (_, samples) = self.rows.iter().find(|(name, _)| *name == row)?;
        Some(spread(samples.get(column.number)?)?.median)
    }

    fn cell(&self, samples: &Samples, column: &Column) -> Option<String> {
        let Spread { least, median, most } = spread(samples.get(column.number)?)?;
        let digits = column.decimals;
        let mut cell = format!("{median:.digits$} ({least:.digits$} to {most:.digits$})");
        if let Some(reference) = self.median(self.reference, column).filter(|_| column.ratio) {
            cell += &format!(", {:.2}x", median / reference);
        }
        Some(cell)
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n**{}**\n\n| |", self.title)?;
        self.columns.iter().try_for_each(|column| write!(f, " {} |", column.title))?;
        write!(f, "\n|---|{}", "---|".repeat(self.columns.len()))?;
        for (name, samples) in self.rows {
            write!(f, "\n| {name} |")?;
            for column in self.columns {
                write!(f, " {} |", self.cell(samples, column).unwrap_or_default())?;
            }
        }
        writeln!(f)
    }
}

struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

/// `None` without samples.
fn spread(samples: &[f64]) -> Option<Spread> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let median = if sorted.len().is_multiple_of(2) { sorted.get(sorted.len() / 2 - 1)?.midpoint(upper) } else { upper };
    Some(Spread { least: *sorted.first()?, median, most: *sorted.last()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let columns = [Column { title: "CPU, us", number: "cpu_us", decimals: 1, ratio: true }];
        let samples = |numbers: &[f64]| Samples::from([("cpu_us".to_owned(), numbers.to_vec())]);
        let (ours, theirs, none) = (samples(&[30.0, 10.0, 20.0]), samples(&[10.0, 30.0]), Samples::new());
        let rows = [("ours", &ours), ("theirs", &theirs), ("none", &none)];
        let table = Table { title: "work", columns: &columns, reference: "theirs", rows: &rows };
        let expected = "\n**work**\n\n| | CPU, us |\n|---|---|\n| ours | 20.0 (10.0 to 30.0), 1.00x |\n\
                        | theirs | 20.0 (10.0 to 30.0), 1.00x |\n| none |  |\n";
        assert_eq!(table.to_string(), expected);
    }
}
