//! The learning curve as SVG. The colours are those of the page's light dress, in attributes that its style sheet
//! addresses, so that the dark dress can change them.

use std::ops::Range;

use plotters::prelude::*;

use super::CurvePoint;

const LINE: RGBColor = RGBColor(0xe6, 0xe2, 0xda);
const QUIET: RGBColor = RGBColor(0x6a, 0x6f, 0x77);
const ACCENT: RGBColor = RGBColor(0x2b, 0x6c, 0x8c);
const OTHER: RGBColor = RGBColor(0xa3, 0xa7, 0xad);
const PAPER: RGBColor = RGBColor(0xfb, 0xfa, 0xf7);

/// Width and height of a drawing; the page scales it.
const SIZE: (u32, u32) = (440, 250);

/// Losses of the training part and the validation part, and the validation score, `most` at best, over the epochs.
///
/// `None` when fewer than two epochs are finite: there is no curve then.
pub(super) fn curves(points: &[CurvePoint], best_epoch: usize, most: f64) -> Option<[String; 2]> {
    let finite = |point: &&CurvePoint| {
        [
            point.epoch,
            point.train_loss,
            point.validation_loss,
            point.validation_accuracy,
        ]
        .iter()
        .all(|x| x.is_finite())
    };
    let points: Vec<&CurvePoint> = points.iter().filter(finite).collect();
    if points.len() < 2 {
        return None;
    }
    let series = |of: fn(&CurvePoint) -> f64| {
        points
            .iter()
            .map(|point| (point.epoch, of(point)))
            .collect::<Vec<_>>()
    };
    let loss = [
        (series(|point| point.train_loss), OTHER),
        (series(|point| point.validation_loss), ACCENT),
    ];
    let accuracy = [(series(|point| point.validation_accuracy), ACCENT)];
    let best = best_epoch as f64;
    // A drawing on a string fails only if its sizes make no sense, and these are constants.
    Some([
        draw(&loss, best, f64::INFINITY).ok()?,
        draw(&accuracy, best, most).ok()?,
    ])
}

type Series = (Vec<(f64, f64)>, RGBColor);

fn draw(
    series: &[Series],
    best_epoch: f64,
    most: f64,
) -> Result<String, Box<dyn std::error::Error>> {
    let all = || series.iter().flat_map(|(points, _)| points);
    let epochs = range(all().map(|(epoch, _)| *epoch), 0.0, f64::INFINITY);
    let values = range(all().map(|(_, value)| *value), 0.08, most);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&PAPER)?;
        let mut chart = ChartBuilder::on(&root)
            .margin_right(14)
            .margin_top(10)
            .x_label_area_size(26)
            .y_label_area_size(40)
            .build_cartesian_2d(epochs.clone(), values.clone())?;
        let whole = epochs.end.fract() == 0.0;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(LINE)
            .axis_style(LINE)
            .x_labels(((epochs.end - epochs.start) as usize + 1).min(8))
            .y_labels(5)
            .x_label_formatter(&|epoch| match whole && epoch.fract() != 0.0 {
                true => String::new(),
                false => format!("{epoch}"),
            })
            .y_label_formatter(&|value| match most > 1.0 && most.is_finite() {
                true => format!("{value:.0}"),
                false => format!("{value:.2}"),
            })
            .label_style(("sans-serif", 12, &QUIET))
            .draw()?;
        if epochs.contains(&best_epoch) || best_epoch == epochs.end {
            let line = [(best_epoch, values.start), (best_epoch, values.end)];
            chart.draw_series(std::iter::once(PathElement::new(line, QUIET)))?;
        }
        for (points, colour) in series {
            chart.draw_series(std::iter::once(PathElement::new(
                points.clone(),
                colour.stroke_width(2),
            )))?;
            chart.draw_series(
                points
                    .iter()
                    .map(|point| Circle::new(*point, 3, colour.filled())),
            )?;
        }
        root.present()?;
    }
    Ok(svg)
}

/// From the smallest to the largest value, widened by a share of the distance on both sides.
fn range(values: impl Iterator<Item = f64>, widened: f64, most: f64) -> Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| {
        (low.min(x), high.max(x))
    });
    let margin = ((high - low) * widened).max(if high > low { 0.0 } else { 0.05 });
    (low - margin).max(0.0)..(high + margin).min(most.max(high))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(epoch: f64, loss: f64) -> CurvePoint {
        CurvePoint {
            epoch,
            train_loss: loss,
            validation_loss: loss + 0.1,
            validation_accuracy: 0.9,
        }
    }

    #[test]
    fn one_epoch_makes_no_curve_and_a_number_that_is_not_finite_is_left_out() {
        assert!(curves(&[], 0, 1.0).is_none());
        assert!(curves(&[point(1.0, 0.5)], 1, 1.0).is_none());
        assert!(curves(&[point(1.0, 0.5), point(2.0, f64::NAN)], 1, 1.0).is_none());
        let [loss, _] = curves(
            &[point(1.0, 0.5), point(2.0, f64::NAN), point(3.0, 0.4)],
            1,
            1.0,
        )
        .unwrap();
        assert!(loss.contains("<circle") && !loss.contains("NaN"));
    }
}
