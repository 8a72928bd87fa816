//! What the report's page shows beside the scores, and the page of one map.

use std::fmt::{Result, Write};

use super::draw::{data_address, overlay, thumbnail_png};
use super::{Mistake, PictureMap};
use crate::pictures::Picture;
use crate::report::{Report, escape, page, page_with};

/// Mistakes that the page shows.
const SHOWN: usize = 24;
/// Pixels of the longer side of a picture on the page.
const SIDE: usize = 112;

/// The report as a page, with the mistakes of which the model was surest and maps of some pictures.
pub(super) fn html(
    report: &Report,
    mistakes: &[Mistake],
    maps: &[(Picture, PictureMap)],
) -> String {
    page_with(report, |html| {
        if !mistakes.is_empty() {
            html.push_str("<h2>Mistakes, the surest first</h2>\n<div class=\"sheet\">\n");
            for mistake in mistakes.iter().take(SHOWN) {
                writeln!(
                    html,
                    "<figure title=\"{}\"><img alt=\"\" src=\"{}\"><figcaption><bdi>{}</bdi><br><small>taken for <bdi>{}</bdi> \
                     {:.2}</small></figcaption></figure>",
                    escape(&mistake.place),
                    data_address(&thumbnail_png(&mistake.picture, SIDE)),
                    escape(&mistake.truth),
                    escape(&mistake.answer),
                    mistake.probability
                )?;
            }
            html.push_str("</div>\n");
        }
        if !maps.is_empty() {
            html.push_str("<h2>Where it looked</h2>\n<div class=\"sheet\">\n");
            for (picture, map) in maps {
                figure(html, picture, map)?;
            }
            html.push_str("</div>\n");
            writeln!(html, "<p><small>{METHOD}</small></p>")?;
        }
        Ok(())
    })
}

const METHOD: &str = "Left the picture, right how much each place spoke for the answer: attention × gradient through all layers, from \
                      none (dark blue) to the most (yellow). It says what the answer hangs on, not that it hangs on the right thing.";

fn figure(html: &mut String, picture: &Picture, map: &PictureMap) -> Result {
    writeln!(
        html,
        "<figure class=\"pair\"><img alt=\"the picture\" src=\"{}\"><img alt=\"where the model looked\" src=\"{}\">\
         <figcaption><bdi>{}</bdi> {:.3}</figcaption></figure>",
        data_address(&thumbnail_png(picture, SIDE)),
        data_address(&overlay(picture, map)),
        escape(&map.label),
        probability(map)
    )
}

/// How probable the label of the map is.
fn probability(map: &PictureMap) -> f32 {
    let found = map
        .prediction
        .probabilities
        .iter()
        .find(|one| one.label == map.label);
    found.map_or(0.0, |one| one.probability)
}

/// One map as a page.
pub fn map_html(picture: &Picture, map: &PictureMap) -> String {
    page(&format!("Explanation: {}", map.label), |html| {
        writeln!(
            html,
            "<p class=\"eyebrow\">Regard explanation</p>\n<h1>Where the model looked</h1>\n\
             <p>For <b dir=\"auto\">{}</b>, which it holds probable at {:.3}.</p>\n<div class=\"large\">\n\
             <img alt=\"the picture\" src=\"{}\"><img alt=\"where the model looked\" src=\"{}\"></div>\n\
             <p class=\"quiet\">{}. From none (dark blue) to the most (yellow).</p>\n<h2>Every label</h2>\n\
             <div class=\"wide\"><table><tbody>",
            escape(&map.label),
            probability(map),
            data_address(&thumbnail_png(picture, 448)),
            data_address(&overlay(picture, map)),
            escape(&map.about)
        )?;
        for one in map.prediction.probabilities.iter().take(20) {
            writeln!(
                html,
                "<tr><td><bdi>{}</bdi></td><td class=\"number\">{:.4}</td><td style=\"width:60%\"><span class=\"bar\">\
                 <span style=\"width:{:.1}%\"></span></span></td></tr>",
                escape(&one.label),
                one.probability,
                100.0 * one.probability.clamp(0.0, 1.0)
            )?;
        }
        html.push_str("</tbody></table></div>\n");
        Ok(())
    })
}
