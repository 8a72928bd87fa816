//! The report and an explanation as one self-contained page: no network, no script, nothing of the data unescaped.

use super::Report;
use crate::text_classification::Explanation;

/// The whole report as a page, with the attended words of some texts.
pub fn html(_report: &Report, _examples: &[Explanation]) -> String {
    String::new()
}

/// One explanation as a page.
pub fn explanation_html(_explanation: &Explanation) -> String {
    String::new()
}
