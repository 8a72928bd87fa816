//! Scores as tables: the model beside its rivals, each class, what was taken for what.

use owo_colors::{OwoColorize, Style, XtermColors};
use regard_tasks::metrics::{Difference, Evaluation, Interval};
use regard_tasks::report::Rival;

use super::{Cell, Table, bar, shorten, thousands, width};

/// A score with its 95 % interval.
fn interval(score: &Interval) -> String {
    format!("{:.3} [{:.3}, {:.3}]", score.value, score.low, score.high)
}

fn difference(difference: &Difference) -> String {
    format!(
        "{:+.3} [{:+.3}, {:+.3}]",
        difference.value, difference.low, difference.high
    )
}

/// The model and its rivals on the same rows.
pub(crate) fn standings(model: &str, scores: &Evaluation, rivals: &[Rival]) -> String {
    let mut table = Table::new(["", "accuracy", "", "macro-F1", "model minus it"]);
    let line =
        |name: &str, accuracy: &Interval, macro_f1: &Interval, minus: String, style: Style| {
            [
                Cell::styled(name, style),
                Cell::styled(interval(accuracy), style),
                Cell::from(bar(accuracy.value, 20)),
                Cell::styled(interval(macro_f1), style),
                Cell::from(minus),
            ]
        };
    table.row(line(
        model,
        &scores.accuracy,
        &scores.macro_f1,
        String::new(),
        Style::new().bold(),
    ));
    for rival in rivals {
        let minus = difference(&rival.difference);
        table.row(line(
            &rival.name,
            &rival.accuracy,
            &rival.macro_f1,
            minus,
            Style::new(),
        ));
    }
    let rows = thousands(scores.rows);
    table.render()
        + &format!(
            "  {}\n",
            format!("{rows} rows; in brackets: bootstrap 95 % intervals").dimmed()
        )
}

/// Precision, recall and F1 of every class.
pub(crate) fn per_class(scores: &Evaluation) -> String {
    let mut table = Table::new(["class", ">rows", ">precision", ">recall", ">F1", ""]);
    for class in &scores.classes {
        table.row([
            shorten(&class.label, LABEL).into_owned(),
            thousands(class.support),
            format!("{:.3}", class.precision),
            format!("{:.3}", class.recall),
            format!("{:.3}", class.f1),
            bar(class.f1, 20),
        ]);
    }
    table.render()
}

/// Columns a label may take.
const LABEL: usize = 28;

/// Columns a whole matrix may take before its columns are numbered instead of named, and before it is left out.
const NAMED: usize = 90;
const MOST_CLASSES: usize = 20;

/// The confusion matrix, and the most frequent mistakes by name.
pub(crate) fn confusions(scores: &Evaluation) -> String {
    let mut text = String::new();
    if scores.labels.len() <= MOST_CLASSES {
        text += &matrix(scores);
    }
    let mistakes = mistakes(scores);
    if scores.labels.len() > 2 && !mistakes.is_empty() {
        text += &format!("  {}\n", "most frequent mistakes".dimmed());
        let mut table = Table::new(["", "", "", ">"]);
        for (count, truth, predicted) in mistakes.iter().take(5) {
            let label = |index: &usize| shorten(&scores.labels[*index], LABEL).into_owned();
            table.row([
                label(truth),
                "taken for".to_owned(),
                label(predicted),
                thousands(*count),
            ]);
        }
        text += &table.render();
    }
    text
}

fn matrix(scores: &Evaluation) -> String {
    let labels: Vec<String> = scores
        .labels
        .iter()
        .map(|label| shorten(label, LABEL).into_owned())
        .collect();
    let named = labels
        .iter()
        .map(|label| width(label).max(4) + 2)
        .sum::<usize>()
        <= NAMED;
    let heads = labels.iter().enumerate().map(|(index, label)| match named {
        true => format!(">{label}"),
        false => format!(">{}", index + 1),
    });
    let mut table = Table::new(["true \\ predicted".to_owned()].into_iter().chain(heads));
    for (truth, row) in scores.confusion.iter().enumerate() {
        let total: usize = row.iter().sum();
        let name = match named {
            true => labels[truth].clone(),
            false => format!("{:>2} {}", truth + 1, labels[truth]),
        };
        let cells = row
            .iter()
            .enumerate()
            .map(|(predicted, count)| match count {
                0 => Cell::styled("·", Style::new().dimmed()),
                _ => Cell::styled(
                    thousands(*count),
                    shade(truth == predicted, *count as f64 / total as f64),
                ),
            });
        table.row([Cell::from(name)].into_iter().chain(cells));
    }
    table.render()
}

/// Green where the model was right, orange where it was wrong; stronger with the share of the row.
fn shade(right: bool, share: f64) -> Style {
    const RIGHT: [u8; 3] = [194, 157, 114];
    const WRONG: [u8; 3] = [230, 222, 209];
    let colours = if right { RIGHT } else { WRONG };
    let index = ((share * 3.0) as usize).min(2);
    Style::new()
        .color(XtermColors::from(16))
        .on_color(XtermColors::from(colours[index]))
}

/// `(count, truth, predicted)` of every kind of mistake, most frequent first.
fn mistakes(scores: &Evaluation) -> Vec<(usize, usize, usize)> {
    let mut mistakes = Vec::new();
    for (truth, row) in scores.confusion.iter().enumerate() {
        for (predicted, count) in row.iter().enumerate() {
            if truth != predicted && *count > 0 {
                mistakes.push((*count, truth, predicted));
            }
        }
    }
    mistakes.sort_by_key(|(count, truth, predicted)| (usize::MAX - count, *truth, *predicted));
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;
    use regard_tasks::metrics::ClassScore;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    fn scores(labels: &[&str], confusion: Vec<Vec<usize>>) -> Evaluation {
        let classes = labels
            .iter()
            .zip(&confusion)
            .map(|(label, row)| ClassScore {
                label: (*label).to_owned(),
                precision: 0.75,
                recall: 0.5,
                f1: 0.6,
                support: row.iter().sum(),
            });
        Evaluation {
            rows: confusion.iter().flatten().sum(),
            accuracy: Interval {
                value: 0.912,
                low: 0.89,
                high: 0.931,
            },
            macro_f1: Interval {
                value: 0.9,
                low: 0.87,
                high: 0.92,
            },
            classes: classes.collect(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            confusion,
        }
    }

    #[test]
    fn the_model_stands_beside_its_rivals() {
        let rival = |name: &str, value: f64, by: f64| Rival {
            name: name.to_owned(),
            accuracy: Interval {
                value,
                low: value - 0.02,
                high: value + 0.02,
            },
            macro_f1: Interval {
                value: 0.4,
                low: 0.39,
                high: 0.41,
            },
            difference: Difference {
                value: by,
                low: by - 0.03,
                high: by + 0.03,
            },
        };
        let rivals = [
            rival("majority class", 0.6, 0.312),
            rival("mean pooling", 0.92, -0.008),
        ];
        let table = standings(
            "pooling",
            &scores(&["ham", "spam"], vec![vec![700, 5], vec![60, 435]]),
            &rivals,
        );
        insta::assert_snapshot!(plain(&table), @r"
                          accuracy                                   macro-F1              model minus it
          pooling         0.912 [0.890, 0.931]  ██████████████████▎  0.900 [0.870, 0.920]
          majority class  0.600 [0.580, 0.620]  ████████████         0.400 [0.390, 0.410]  +0.312 [+0.282, +0.342]
          mean pooling    0.920 [0.900, 0.940]  ██████████████████▍  0.400 [0.390, 0.410]  -0.008 [-0.038, +0.022]
          1,200 rows; in brackets: bootstrap 95 % intervals
        ");
    }

    #[test]
    fn classes_and_confusions_line_up_in_any_script() {
        let scores = scores(
            &["体育", "سياسة", "tech 🚀"],
            vec![vec![90, 0, 2], vec![1, 1200, 0], vec![0, 7, 30]],
        );
        insta::assert_snapshot!(plain(&(per_class(&scores) + &confusions(&scores))), @r"
          class     rows  precision  recall     F1
          体育        92      0.750   0.500  0.600  ████████████
          سياسة    1,201      0.750   0.500  0.600  ████████████
          tech 🚀     37      0.750   0.500  0.600  ████████████
          true \ predicted  体育  سياسة  tech 🚀
          体育                90      ·        2
          سياسة                1  1,200        ·
          tech 🚀              ·      7       30
          most frequent mistakes
          tech 🚀  taken for  سياسة    7
          体育     taken for  tech 🚀  2
          سياسة    taken for  体育     1
        ");
    }

    #[test]
    fn columns_are_numbered_when_their_names_are_too_wide() {
        let labels: Vec<String> = (0..6)
            .map(|index| format!("a rather long label {index}"))
            .collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let matrix = (0..6)
            .map(|row| {
                (0..6)
                    .map(|column| usize::from(row == column) * 9)
                    .collect()
            })
            .collect();
        insta::assert_snapshot!(plain(&confusions(&scores(&labels, matrix))), @r"
          true \ predicted          1  2  3  4  5  6
           1 a rather long label 0  9  ·  ·  ·  ·  ·
           2 a rather long label 1  ·  9  ·  ·  ·  ·
           3 a rather long label 2  ·  ·  9  ·  ·  ·
           4 a rather long label 3  ·  ·  ·  9  ·  ·
           5 a rather long label 4  ·  ·  ·  ·  9  ·
           6 a rather long label 5  ·  ·  ·  ·  ·  9
        ");
    }
}
