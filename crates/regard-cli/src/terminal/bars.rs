//! Horizontal bars of eighths of a column.

const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// A bar of `share` (0 to 1) of `columns` columns; what is more than nothing shows at least a sliver.
pub(crate) fn bar(share: f64, columns: usize) -> String {
    let eighths = (share.clamp(0.0, 1.0) * columns as f64 * 8.0).round() as usize;
    let eighths = if share > 0.0 { eighths.max(1) } else { eighths };
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share() {
        let bars: Vec<String> = [1.0, 0.5, 0.19, 0.001, 0.0]
            .map(|share| bar(share, 10))
            .into();
        insta::assert_snapshot!(bars.join("|\n") + "|", @r"
        ██████████|
        █████|
        █▉|
        ▏|
        |
        ");
    }

    #[test]
    fn what_is_no_share_is_no_bar() {
        assert_eq!(bar(f64::NAN, 10), "");
        assert_eq!(bar(7.0, 3), "███");
    }
}
