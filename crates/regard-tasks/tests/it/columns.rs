//! Columns: what is inferred, why, and what is asked back.

use std::fs;

use regard_tasks::Error;
use regard_tasks::columns::{ColumnChoice, Columns, infer, infer_text};
use regard_tasks::tables::Table;

fn table(csv: &str) -> Table {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("mails.csv");
    fs::write(&path, csv).unwrap();
    Table::read(&path).unwrap()
}

fn choice(text: Option<&str>, label: Option<&str>, group: Option<&str>) -> ColumnChoice {
    let owned = |name: Option<&str>| name.map(str::to_owned);
    ColumnChoice {
        text: owned(text),
        label: owned(label),
        group: owned(group),
    }
}

fn inferred(csv: &str) -> Columns {
    infer(&table(csv), &ColumnChoice::default()).unwrap()
}

fn refusal(csv: &str, choice: &ColumnChoice) -> String {
    let message = infer(&table(csv), choice).unwrap_err().to_string();
    message[message.find("mails.csv").unwrap_or(0)..].to_owned()
}

/// Rows with a number, a long text, a section of three, a score and a short title.
fn rows(header: &str) -> String {
    let mut csv = format!("{header}\n");
    for at in 0..60 {
        csv += &format!(
            "{at},a rather long text about the thing {at} and so on,{},{},thing {at}\n",
            ["net", "games", "mail"][at % 3],
            at % 5
        );
    }
    csv
}

#[test]
fn names_decide_first_and_the_reasons_say_how_to_say_otherwise() {
    let columns = inferred(&rows("id,body,section,stars_given,title"));
    assert_eq!(
        (columns.text.as_str(), columns.label.as_str()),
        ("body", "section")
    );
    assert_eq!(columns.group, None);
    assert!(columns.reasons[0].starts_with("the texts are in the column `body`, by its name ("));
    assert!(columns.reasons[0].ends_with("--text-column NAME says otherwise"));
    assert_eq!(
        columns.reasons[1],
        "the labels are in the column `section`, by its name (3 different values); --label-column NAME says otherwise"
    );
    assert_eq!(
        columns.reasons[2],
        "not used: `id` (different in every row), `stars_given` (numbers), `title` (different in every row)"
    );
}

#[test]
fn values_decide_where_names_do_not() {
    // `c` has three values and `d` five: which of the two is meant?
    let message = refusal(&rows("a,b,c,d,e"), &ColumnChoice::default());
    assert_eq!(
        message,
        "mails.csv: more than one column could be the label; say which it is with --label-column NAME: `c` (3 different \
         values, such as `net`, `games`, `mail`); `d` (5 different values, such as `0`, `1`, `2`)"
    );
    let columns = infer(&table(&rows("a,b,c,d,e")), &choice(None, Some("d"), None)).unwrap();
    assert_eq!((columns.text.as_str(), columns.label.as_str()), ("b", "d"));
    assert!(columns.reasons[0].contains("`b`, which has the longest values"));
}

#[test]
fn what_the_user_names_is_taken_as_it_is_and_must_be_there() {
    let csv = rows("id,body,section,stars_given,title");
    let columns = infer(
        &table(&csv),
        &choice(Some("title"), Some("stars_given"), Some("section")),
    )
    .unwrap();
    assert_eq!(
        (
            columns.text.as_str(),
            columns.label.as_str(),
            columns.group.as_deref()
        ),
        ("title", "stars_given", Some("section"))
    );
    for wrong in [
        choice(Some("bodi"), None, None),
        choice(None, Some("bodi"), None),
        choice(None, None, Some("bodi")),
    ] {
        let message = refusal(&csv, &wrong);
        assert!(
            message.starts_with(
                "mails.csv: no column `bodi` (did you mean `body`?); it has `id`, `body`"
            ),
            "{message}"
        );
    }
    let message = infer(&table(&csv), &choice(Some("body"), Some("body"), None))
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "`--label-column`: found `body`, which is the text column, expected another column"
    );
}

#[test]
fn the_common_names_are_known_whatever_their_spelling() {
    for (header, text, label) in [
        ("text,label", "text", "label"),
        ("label,text", "text", "label"),
        ("Text,Category", "Text", "Category"),
        (
            "review_text,overallSentiment",
            "review_text",
            "overallSentiment",
        ),
        ("v1,v2", "v2", "v1"),
        ("sms,spam", "sms", "spam"),
        ("content,y", "content", "y"),
        ("文本,标签", "文本", "标签"),
    ] {
        let first_is_label = header.split(',').next() == Some(label);
        let mut csv = format!("{header}\n");
        for at in 0..60 {
            let (words, kind) = (
                format!("words about number {at} here"),
                ["good", "bad"][at % 2],
            );
            csv += &if first_is_label {
                format!("{kind},{words}\n")
            } else {
                format!("{words},{kind}\n")
            };
        }
        let columns = inferred(&csv);
        assert_eq!(
            (columns.text.as_str(), columns.label.as_str()),
            (text, label),
            "{header}"
        );
    }
}

#[test]
fn of_a_text_and_its_title_the_longer_is_the_text() {
    let columns = inferred(
        "title,text,label\nshort,a much longer text than that,a\nsmall,another one that is quite long,b\n",
    );
    assert_eq!(columns.text, "text");
    let message = refusal(
        "review,comment,label\nabc def,abc dee,x\nghi jkl,mno pqr,y\n",
        &ColumnChoice::default(),
    );
    assert!(
        message.contains(
            "more than one column could be the text; say which it is with --text-column NAME"
        ),
        "{message}"
    );
}

#[test]
fn one_class_only_is_left_to_the_caller_to_refuse() {
    assert_eq!(inferred("text,label\nabc,a\ndef,a\n").label, "label");
    assert_eq!(inferred("text,category\nabc,a\ndef,a\n").label, "category");
}

#[test]
fn a_table_without_a_label_says_so() {
    let mut csv = "id,text\n".to_owned();
    (0..60).for_each(|at| csv += &format!("{at},words about {at}\n"));
    let message = refusal(&csv, &ColumnChoice::default());
    assert_eq!(
        message,
        "mails.csv: no column looks like the label; say which it is with --label-column NAME; the file has `id`, `text`"
    );
    let (text, _) = infer_text(&table(&csv), &ColumnChoice::default()).unwrap();
    assert_eq!(text, "text");
    assert_eq!(
        infer_text(&table("whatever\nabc\ndef\n"), &ColumnChoice::default())
            .unwrap()
            .0,
        "whatever"
    );
}

#[test]
fn rows_that_belong_together_are_pointed_out() {
    let mut csv = "text,label,source\n".to_owned();
    (0..60).for_each(|at| csv += &format!("words about {at},{},s{}\n", at % 2, at % 20));
    let reasons = inferred(&csv).reasons;
    let hint = "if rows with the same `source` are alike, --group source keeps them on one side of every split";
    assert_eq!(reasons.last().unwrap(), hint);
    let columns = infer(&table(&csv), &choice(None, None, Some("source"))).unwrap();
    assert_eq!(columns.group.as_deref(), Some("source"));
    assert!(
        !columns
            .reasons
            .iter()
            .any(|reason| reason.contains("--group"))
    );
}

#[test]
fn a_separator_that_was_inferred_is_said_too() {
    let columns = inferred("text;label\nHallo, Welt;gut\nAdieu, Welt;schlecht\n");
    assert!(
        columns.reasons[0].contains("semicolons"),
        "{:?}",
        columns.reasons
    );
}

#[test]
fn errors_say_which_argument_was_found_and_what_is_expected() {
    let error = Error::argument("--data", "no file", "at least one file");
    assert_eq!(
        error.to_string(),
        "`--data`: found no file, expected at least one file"
    );
    let error = Error::setting("dropout", 2, "at least 0 and less than 1");
    assert_eq!(
        error.to_string(),
        "setting `dropout` is 2, expected at least 0 and less than 1"
    );
}
