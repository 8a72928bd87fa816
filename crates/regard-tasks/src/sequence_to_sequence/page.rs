//! The report of a translator or summarizer as a page that needs nothing else.

use std::fmt::{Result, Write};

use super::Kind;
use super::report::{PairReport, SampleOutput};
use crate::metrics::Interval;
use crate::report::standings::{Standing, Standings};
use crate::report::{capital, escape, page, parts, thousands};
use crate::text_metrics::TextScore;

/// The page, with what the model made of some pairs.
pub(super) fn html(report: &PairReport, samples: &[SampleOutput]) -> String {
    page(&format!("Report: {}", report.task.name()), |html| {
        write_report(html, report, samples)
    })
}

fn write_report(html: &mut String, report: &PairReport, samples: &[SampleOutput]) -> Result {
    writeln!(
        html,
        "<p class=\"eyebrow\">Regard report</p>\n<h1>{}</h1>",
        capital(report.task.name())
    )?;
    let (model, training) = (&report.model, &report.training);
    if let Some(TextScore { name, interval, .. }) = report.scores.first() {
        writeln!(
            html,
            "<p>It reads <code>{}</code> and writes <code>{}</code>: on {} ({} pairs) {:.1} {name}; the 95 % interval of that score is {:.1} to {:.1}.</p>",
            escape(&report.source_column),
            escape(&report.target_column),
            escape(&report.scored_on),
            thousands(report.scored_pairs),
            interval.value,
            interval.low,
            interval.high
        )?;
    }
    let scores = report.scores.iter().take(2);
    let mut facts: Vec<(String, String)> = scores
        .map(|score| (format!("{:.1}", score.interval.value), score.name.clone()))
        .collect();
    facts.push((parts::short(model.parameters), "parameters".to_owned()));
    facts.push((
        parts::duration(training.seconds),
        format!("of training on {} pairs", thousands(report.train_pairs)),
    ));
    parts::facts(html, &facts)?;
    html.push_str("<h2>Beside something simpler</h2>\n");
    standings(html, report)?;
    let verdicts: Vec<String> = report.verdicts.iter().map(|said| capital(said)).collect();
    parts::verdicts(html, &verdicts)?;
    let score = match report.task {
        Kind::Translation => "validation chrF",
        Kind::Summarization => "validation ROUGE-L",
    };
    parts::learned(html, training, score, 100.0)?;
    if !samples.is_empty() {
        html.push_str("<h2>Some outputs</h2>\n");
        outputs(html, samples)?;
    }
    html.push_str("<h2>Data and training</h2>\n");
    details(html, report)
}

/// `33.1 [32.0, 34.2]`
fn shown(score: &Interval) -> String {
    let Interval { value, low, high } = score;
    format!("{value:.1} <small>[{low:.1}, {high:.1}]</small>")
}

fn standings(html: &mut String, report: &PairReport) -> Result {
    let Some(first) = report.scores.first() else {
        return Ok(());
    };
    let cells = |scores: &[TextScore], by: String| {
        let scores = scores.iter().map(|score| shown(&score.interval));
        scores.chain([by]).collect()
    };
    let mut rows = vec![Standing {
        name: "this model".to_owned(),
        drawn: &first.interval,
        cells: cells(&report.scores, String::new()),
    }];
    for rival in &report.rivals {
        let by = &rival.difference;
        let by = format!(
            "{:+.1} <small>[{:+.1}, {:+.1}]</small>",
            by.value, by.low, by.high
        );
        if let Some(first) = rival.scores.first() {
            rows.push(Standing {
                name: rival.name.clone(),
                drawn: &first.interval,
                cells: cells(&rival.scores, by),
            });
        }
    }
    let names = report.scores.iter().map(|score| {
        let (name, signature) = (escape(&score.name), escape(&score.signature));
        format!("<span title=\"{signature}\">{name}</span>")
    });
    let by = "the model minus it".to_owned();
    let columns = names.chain([by]).collect();
    let most = 100.0;
    Standings {
        columns,
        most,
        rows,
    }
    .write(html)?;
    writeln!(
        html,
        "<p><small>Drawn, and subtracted: {} with its bootstrap 95 % interval. All on the same pairs.</small></p>",
        escape(&first.name)
    )
}

fn outputs(html: &mut String, samples: &[SampleOutput]) -> Result {
    html.push_str("<div class=\"wide\"><table class=\"texts\">\n<thead><tr><th>source</th><th>written</th><th>reference</th></tr></thead>\n<tbody>\n");
    for sample in samples {
        let cells = [&sample.source, &sample.written, &sample.reference];
        html.push_str("<tr>");
        for text in cells {
            write!(html, "<td dir=\"auto\">{}</td>", escape(text))?;
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
    Ok(())
}

fn details(html: &mut String, report: &PairReport) -> Result {
    let (model, training) = (&report.model, &report.training);
    let all = |lines: &[String]| lines.iter().map(|line| escape(line)).collect::<Vec<_>>();
    let signatures = report.scores.iter().map(|score| {
        let (name, signature) = (escape(&score.name), escape(&score.signature));
        format!("{name} <code>{signature}</code>")
    });
    html.push_str("<dl>\n");
    let mut entry = |name: &str, values: &[String]| parts::entry(html, name, values);
    entry(
        "files",
        &report.files.iter().map(parts::file).collect::<Vec<_>>(),
    )?;
    entry(
        "pairs",
        &[format!(
            "{} to learn from, {} to stop early on",
            thousands(report.train_pairs),
            thousands(report.validation_pairs)
        )],
    )?;
    entry("left out, cut, inferred", &all(&report.data_notes))?;
    entry("signatures", &signatures.collect::<Vec<_>>())?;
    parts::model_and_training(html, model, training)?;
    html.push_str("</dl>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::report::Rival;
    use super::*;
    use crate::metrics::Difference;
    use crate::report::{CurvePoint, FileFacts, ModelFacts, TrainingFacts};

    const HOSTILE: &str = "</td><script>alert('1')</script> & \"\u{0}\"";

    fn report() -> PairReport {
        let scores = |value: f64| {
            ["BLEU", HOSTILE].map(|name| TextScore {
                name: name.to_owned(),
                interval: Interval {
                    value,
                    low: value - 1.0,
                    high: value + 2.0,
                },
                signature: HOSTILE.to_owned(),
            })
        };
        let point = |epoch: f64| CurvePoint {
            epoch,
            train_loss: 5.0 / epoch,
            validation_loss: 6.0 / epoch,
            validation_accuracy: 20.0 * epoch,
        };
        PairReport {
            format: 1,
            task: Kind::Translation,
            files: vec![FileFacts {
                name: HOSTILE.to_owned(),
                rows: 1_234,
                sha256: "00ff".to_owned(),
            }],
            source_column: HOSTILE.to_owned(),
            target_column: HOSTILE.to_owned(),
            train_pairs: 1_111,
            validation_pairs: 123,
            data_notes: vec![HOSTILE.to_owned()],
            model: ModelFacts {
                kind: "translation".to_owned(),
                parameters: 1_234_567,
                parts: vec![("encoder".to_owned(), 1_234_567)],
                vocabulary: 1_000,
                bytes: 4_938_268,
            },
            training: TrainingFacts {
                seed: 0,
                steps: 100,
                epochs: 2.0,
                seconds: 75.0,
                best_epoch: 2,
                curve: vec![point(1.0), point(2.0)],
                stopped: HOSTILE.to_owned(),
                notes: vec![HOSTILE.to_owned()],
            },
            scored_on: HOSTILE.to_owned(),
            scored_pairs: 1_000,
            scores: scores(31.5).to_vec(),
            rivals: vec![Rival {
                name: HOSTILE.to_owned(),
                scores: scores(4.0).to_vec(),
                difference: Difference {
                    value: 27.5,
                    low: 26.0,
                    high: 29.0,
                },
            }],
            verdicts: vec!["the model has more".to_owned(), HOSTILE.to_owned()],
        }
    }

    fn sample() -> SampleOutput {
        SampleOutput {
            source: HOSTILE.to_owned(),
            reference: "垃圾邮件".to_owned(),
            written: HOSTILE.to_owned(),
        }
    }

    #[test]
    fn nothing_of_the_data_becomes_code_and_nothing_is_loaded() {
        let page = html(&report(), &[sample()]);
        assert!(!page.contains("<script") && !page.contains('\0'));
        assert!(page.contains("&lt;/td&gt;&lt;"));
        for loads in ["src=", "href=", "url(", "@import", "<link"] {
            assert!(!page.contains(loads), "{loads}");
        }
    }

    #[test]
    fn it_shows_scores_something_simpler_the_curve_and_outputs() {
        let page = html(&report(), &[sample()]);
        for part in [
            "31.5 <small>[30.5, 33.5]</small>",
            "+27.5 <small>[+26.0, +29.0]</small>",
            "<svg",
            "validation chrF",
            "垃圾邮件",
            "1.2 M",
            "1 min 15 s",
            "The model has more",
        ] {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn a_model_without_outputs_or_curve_has_a_page() {
        let mut report = report();
        report.training.curve.clear();
        report.rivals.clear();
        let page = html(&report, &[]);
        assert!(page.contains("no curve to draw") && !page.contains("Some outputs"));
    }
}
