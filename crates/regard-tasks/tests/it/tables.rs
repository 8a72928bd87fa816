//! Tables: what is read, and what is refused by which line.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, types::Int32Type};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use regard_tasks::Error;
use regard_tasks::tables::Table;
use tempfile::TempDir;

/// A folder with one file, and the file read as a table.
fn read(name: &str, bytes: impl AsRef<[u8]>) -> Result<Table, Error> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    Table::read(&path)
}

/// The message, without the folder that the test made.
fn refusal(name: &str, bytes: impl AsRef<[u8]>) -> String {
    let message = read(name, bytes)
        .expect_err("this should be refused")
        .to_string();
    message[message.find(name).expect("the message names the file")..].to_owned()
}

fn texts(table: &Table, column: &str) -> Vec<String> {
    table
        .column(column)
        .unwrap()
        .into_iter()
        .map(Option::unwrap_or_default)
        .collect()
}

/// 1,000 rows of which the 500th line is spoiled.
fn thousand(line: impl Fn(usize) -> String, spoiled: &str) -> String {
    let mut file = "text,label\n".to_owned();
    for at in 2..=1001 {
        file += &if at == 500 {
            spoiled.to_owned()
        } else {
            line(at)
        };
        file.push('\n');
    }
    file
}

#[test]
fn the_same_rows_come_from_every_format() {
    let csv = read("a.csv", "text,label\n\"good, really\",1\nbad,0\n").unwrap();
    let tsv = read("a.tsv", "text\tlabel\ngood, really\t1\nbad\t0\n").unwrap();
    let jsonl = read(
        "a.jsonl",
        "{\"text\": \"good, really\", \"label\": 1}\n{\"label\": 0, \"text\": \"bad\"}\n",
    )
    .unwrap();
    let json = read("a.json", "[\n {\"text\": \"good, really\", \"label\": \"1\"},\n {\"text\": \"bad\", \"label\": 0}\n]\n").unwrap();
    for table in [csv, tsv, jsonl, json, parquet_table()] {
        assert_eq!(table.names(), ["text", "label"]);
        assert_eq!(texts(&table, "text"), ["good, really", "bad"]);
        assert_eq!(texts(&table, "label"), ["1", "0"]);
    }
}

fn write_parquet(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut writer =
        ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn parquet_file(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("a.parquet");
    let text: ArrayRef = Arc::new(StringArray::from(vec!["good, really", "bad"]));
    let label: ArrayRef = Arc::new(Int64Array::from(vec![1, 0]));
    write_parquet(&path, vec![("text", text), ("label", label)]);
    path
}

fn parquet_table() -> Table {
    let folder = TempDir::new().unwrap();
    Table::read(&parquet_file(&folder)).unwrap()
}

#[test]
fn gzip_is_unpacked_and_the_fingerprint_is_of_the_file() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(b"text,label\na,b\n").unwrap();
    let packed = packed.finish().unwrap();
    let table = read("a.csv.gz", &packed).unwrap();
    assert_eq!(texts(&table, "text"), ["a"]);
    assert_ne!(
        table.fingerprint(),
        read("a.csv", "text,label\na,b\n").unwrap().fingerprint()
    );
    let message = refusal("a.csv.gz", &packed[..packed.len() - 9]);
    assert!(message.contains("not a whole gzip file"), "{message}");
    assert!(refusal("a.csv.gz", "text,label\na,b\n").contains("not a whole gzip file"));
}

#[test]
fn the_fingerprint_is_what_sha256sum_prints() {
    let table = read("a.csv", "a\nb\n").unwrap();
    assert_eq!(
        table.fingerprint(),
        "911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2"
    );
}

#[test]
fn an_empty_file_a_header_only_and_a_missing_file_are_refused() {
    for name in ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"] {
        assert_eq!(refusal(name, ""), format!("{name}: the file is empty"));
        assert_eq!(
            refusal(name, "\n\r\n  "),
            format!("{name}: the file is empty")
        );
    }
    assert_eq!(refusal("a.csv", "\u{FEFF}"), "a.csv: the file is empty");
    assert_eq!(
        refusal("a.csv", "text,label\n"),
        "a.csv: the file has a header (`text`, `label`) and no rows"
    );
    assert!(refusal("a.json", "[]").contains("no rows"));
    let message = Table::read(Path::new("/nowhere/a.csv"))
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("/nowhere/a.csv: cannot be read: "),
        "{message}"
    );
    assert!(refusal("a.txt", "a").contains("expected one that ends in .csv"));
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("folder.csv");
    fs::create_dir(&path).unwrap();
    assert!(
        Table::read(&path)
            .unwrap_err()
            .to_string()
            .contains("this is a folder")
    );
}

#[test]
fn a_missing_column_lists_those_there_are_and_the_nearest() {
    let table = read("a.csv", "text,label\na,b\n").unwrap();
    let message = table.column("lable").unwrap_err().to_string();
    assert!(
        message
            .ends_with("a.csv: no column `lable` (did you mean `label`?); it has `text`, `label`"),
        "{message}"
    );
    let message = table.column("sentiment").unwrap_err().to_string();
    assert!(
        message.ends_with("no column `sentiment`; it has `text`, `label`"),
        "{message}"
    );
}

#[test]
fn an_unbalanced_quote_names_the_line_where_it_opens() {
    let bare = |at: usize| format!("text {at},label");
    let quoted = |at: usize| format!("\"text, {at}\",\"label\"");
    for (file, spoiled) in [
        (thousand(bare, "\"text 500,label"), "never closed"),
        (thousand(bare, "text 500,\"label"), "never closed"),
        (
            thousand(quoted, "\"text, 500,\"label\""),
            "followed by `label\"`",
        ),
        (
            thousand(quoted, "\"text, 500\",\"label"),
            "is closed on line 501",
        ),
        (
            thousand(quoted, "text, 500\",\"label\""),
            "3 fields, expected 2",
        ),
    ] {
        let message = refusal("a.csv", file);
        assert!(
            message.starts_with("a.csv, line 500: ") && message.contains(spoiled),
            "{message}"
        );
    }
}

#[test]
fn a_quote_that_finds_its_partner_by_accident_many_rows_later_is_found() {
    let line = |at: usize| {
        if at == 700 {
            "a 5\",label".to_owned()
        } else {
            format!("text {at},label")
        }
    };
    let message = refusal("a.csv", thousand(line, "\"text 500,label"));
    assert!(message.starts_with("a.csv, line 500: "), "{message}");
    assert!(
        message.contains("runs to line 700, over 199 lines that each look like a row"),
        "{message}"
    );
}

#[test]
fn a_quoted_field_may_hold_lines_and_the_lines_are_counted() {
    let table = read(
        "a.csv",
        "text,label\n\"one\ntwo\r\nthree \"\"four\"\"\",x\nfive,y\r\n\n\"six\",z",
    )
    .unwrap();
    assert_eq!(
        texts(&table, "text"),
        ["one\ntwo\r\nthree \"four\"", "five", "six"]
    );
    assert_eq!(
        (0..3).map(|row| table.line(row)).collect::<Vec<_>>(),
        [2, 5, 7]
    );
    assert_eq!(
        table.notes(),
        ["1 blank line was passed over (the first is line 6)"]
    );
}

#[test]
fn ragged_rows_name_the_line() {
    let message = refusal("a.csv", "text,label\n\"a\nb\",c\nd,e,f\n");
    assert_eq!(
        message,
        "a.csv, line 4: this row has 3 fields, expected 2 as in the header: a field that holds a comma must stand in \
         quotation marks"
    );
    let message = refusal("a.tsv", "text\tlabel\nabc\n");
    assert_eq!(
        message,
        "a.tsv, line 2: this row has 1 field, expected 2 as in the header, separated by tabs"
    );
}

#[test]
fn what_is_not_utf8_names_line_and_byte() {
    assert_eq!(
        refusal("a.csv", b"text,label\na,b\ncaf\xE9,c\n"),
        "a.csv, line 3: byte 4 of the line (0xE9) is not UTF-8: save the file as UTF-8"
    );
    assert!(
        refusal("a.jsonl", b"{\"a\": \"\xFF\"}")
            .starts_with("a.jsonl, line 1: byte 8 of the line (0xFF)")
    );
    assert!(refusal("a.csv", b"\xFF\xFEt\0e\0").contains("UTF-16"));
    let message = refusal("a.csv", "text,label\na,b\nc\0d,e\n");
    assert!(
        message.starts_with("a.csv, line 3: byte 2 of the line is NUL"),
        "{message}"
    );
}

#[test]
fn a_byte_order_mark_and_any_end_of_line_are_accepted() {
    for end in ["\n", "\r\n", "\r"] {
        let table = read("a.csv", format!("\u{FEFF}text,label{end}a,b{end}c,d")).unwrap();
        assert_eq!(table.names(), ["text", "label"]);
        assert_eq!(texts(&table, "label"), ["b", "d"]);
        assert_eq!(table.line(1), 3);
    }
    let table = read(
        "a.jsonl",
        "\u{FEFF}{\"text\": \"a\"}\r\n\r\n{\"text\": \"b\"}\r\n",
    )
    .unwrap();
    assert_eq!(texts(&table, "text"), ["a", "b"]);
    assert_eq!(table.line(1), 3);
}

#[test]
fn a_line_of_a_megabyte_and_more_is_read() {
    let long = "wort ".repeat(600_000);
    let table = read("a.csv", format!("text,label\n{long},a\nb,c\n")).unwrap();
    assert_eq!(texts(&table, "text")[0].len(), 3_000_000);
    let table = read(
        "a.jsonl",
        format!("{{\"text\": \"{long}\"}}\n{{\"text\": \"b\"}}"),
    )
    .unwrap();
    assert_eq!(texts(&table, "text")[0].len(), 3_000_000);
}

#[test]
fn columns_of_one_name_are_refused_and_a_column_without_one_is_called_by_its_place() {
    assert_eq!(
        refusal("a.csv", "text,label,text\na,b,c\n"),
        "a.csv, line 1: columns 1 and 3 are both named `text`, expected names that differ"
    );
    assert_eq!(
        read("a.csv", ", text \n1,a\n").unwrap().names(),
        ["column 1", "text"]
    );
    assert!(refusal("a.csv", format!("{}\nx\n", ",".repeat(5000))).contains("5001 columns"));
}

#[test]
fn semicolons_and_tabs_are_found_in_the_header_and_said() {
    let table = read("a.csv", "text;label\nHallo, Welt;gut\n").unwrap();
    assert_eq!(texts(&table, "text"), ["Hallo, Welt"]);
    assert!(
        table.notes()[0].contains("semicolons"),
        "{:?}",
        table.notes()
    );
    let table = read("a.csv", "text\tlabel\nHallo; Welt\tgut\n").unwrap();
    assert_eq!(texts(&table, "label"), ["gut"]);
    assert!(
        read("a.csv", "text,label\na,b\n")
            .unwrap()
            .notes()
            .is_empty()
    );
}

#[test]
fn nothing_in_a_field_is_none_and_labels_stay_as_they_are_written() {
    let table = read("a.csv", "text,label\n,01\n\"\",1.50\nx,\n").unwrap();
    assert_eq!(
        table.column("text").unwrap(),
        [None, None, Some("x".to_owned())]
    );
    assert_eq!(
        table.column("label").unwrap(),
        [Some("01".to_owned()), Some("1.50".to_owned()), None]
    );
    let table = read(
        "a.jsonl",
        "{\"t\": null, \"n\": 1.50}\n{\"t\": \"\", \"n\": true}\n{\"n\": 12345678901234567890}",
    )
    .unwrap();
    assert_eq!(
        table.column("t").unwrap(),
        [None, Some(String::new()), None]
    );
    assert_eq!(texts(&table, "n"), ["1.50", "true", "12345678901234567890"]);
}

#[test]
fn a_bad_line_of_json_is_named() {
    let file = |line: &str| format!("{{\"text\": \"a\"}}\n\n{line}\n{{\"text\": \"b\"}}\n");
    for (line, found) in [
        (
            "{\"text\": \"a\"",
            "EOF while parsing an object (column 12)",
        ),
        ("{\"text\": }", "expected value (column 10)"),
        ("[1, 2]", "invalid type: sequence, expected an object"),
        ("{\"text\": 1} {\"text\": 2}", "trailing characters"),
        ("{\"a\": 1, \"a\": 2}", "the field `a` occurs twice"),
        ("{\"a\": \"\u{1}\"}", "control character"),
        ("{\"a\": \"\\ud800\"}", "hex escape"),
        ("{\"a\": 1e999}", "number out of range"),
        (
            &format!("{{\"a\": {}", "[".repeat(100_000)),
            "EOF while parsing",
        ),
    ] {
        let message = refusal("a.jsonl", file(line));
        assert!(
            message.starts_with("a.jsonl, line 3: ") && message.contains(found),
            "{message}"
        );
        assert!(
            message.ends_with("expected one JSON object a line, or one array of objects"),
            "{message}"
        );
    }
}

#[test]
fn an_array_of_objects_may_spread_over_lines_and_must_end() {
    let table = read(
        "a.json",
        "[\n  {\n    \"text\": \"a\"\n  },\n  {\"text\": \"b\"}\n]",
    )
    .unwrap();
    assert_eq!((table.line(0), table.line(1)), (2, 5));
    assert!(
        refusal("a.json", "[{\"text\": \"a\"},\n{\"text\": \"b\"}")
            .starts_with("a.json, line 2: found ``")
    );
    assert!(refusal("a.json", "[{\"text\": \"a\"},\n").contains("breaks off"));
    assert!(refusal("a.json", "[{\"text\": \"a\"}\n 5]").contains("line 2: found `5]`"));
    assert!(
        refusal("a.json", "[{\"text\": \"a\"}]\nx").contains("line 2: found `x` after the array")
    );
    assert!(
        refusal("a.json", "[{\"text\":\n \"a}]").contains("line 2: EOF while parsing a string")
    );
}

#[test]
fn lists_and_objects_are_refused_when_they_are_asked_for() {
    let table = read("a.jsonl", "{\"text\": \"a\", \"tags\": null}\n{\"text\": \"b\", \"tags\": [\"x\", {\"deep\": [[1]]}]}").unwrap();
    assert_eq!(texts(&table, "text"), ["a", "b"]);
    let message = table.column("tags").unwrap_err().to_string();
    assert!(
        message.contains("a.jsonl, line 2: the column `tags` holds a list, expected text"),
        "{message}"
    );
    let deep = format!(
        "{{\"text\": \"a\", \"x\": {}{}}}",
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    assert_eq!(texts(&read("a.jsonl", deep).unwrap(), "text"), ["a"]);
    assert!(refusal("a.jsonl", "{\"a\": []}").contains("no field of the objects holds text"));

    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.parquet");
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1)]), None]);
    write_parquet(
        &path,
        vec![("tags", Arc::new(lists) as ArrayRef), ("text", text)],
    );
    let table = Table::read(&path).unwrap();
    assert_eq!(table.names(), ["tags", "text"]);
    assert_eq!(table.column("text").unwrap(), [Some("a".to_owned()), None]);
    assert!(
        table
            .column("tags")
            .unwrap_err()
            .to_string()
            .contains("holds lists")
    );
}

#[test]
fn a_parquet_file_that_is_cut_or_altered_is_an_error_and_never_a_panic() {
    let folder = TempDir::new().unwrap();
    let bytes = fs::read(parquet_file(&folder)).unwrap();
    let spoiled = folder.path().join("b.parquet");
    for end in 1..bytes.len() {
        fs::write(&spoiled, &bytes[..end]).unwrap();
        Table::read(&spoiled).expect_err("a file that breaks off is refused");
    }
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xFF] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            fs::write(&spoiled, bytes).unwrap();
            // Parquet has no checksum of its own here: other text is possible, a panic is not.
            let _ = Table::read(&spoiled).map(|table| table.names().len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_as_rfc_4180_has_it_is_read_back(
        rows in proptest::collection::vec(("[a-c ,;\"\n\r'äß中😀\t]{1,12}", "[xyz,\"\n]{1,6}"), 1..40),
        end in prop_oneof![Just("\n"), Just("\r\n")],
    ) {
        let field = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let mut file = format!("text,label{end}");
        let (mut line, mut lines) = (2, Vec::new());
        for (text, label) in &rows {
            lines.push(line);
            let row = format!("{},{}", field(text), field(label));
            let ends = row.replace("\r\n", "\n").matches(['\n', '\r']).count() as u64;
            line += 1 + ends;
            file += &row;
            file += end;
        }
        let table = read("a.csv", file).unwrap();
        prop_assert_eq!(texts(&table, "text"), rows.iter().map(|row| row.0.clone()).collect::<Vec<_>>());
        prop_assert_eq!(texts(&table, "label"), rows.iter().map(|row| row.1.clone()).collect::<Vec<_>>());
        prop_assert_eq!((0..table.rows()).map(|row| table.line(row)).collect::<Vec<_>>(), lines);
    }

    #[test]
    fn no_text_at_all_makes_a_reader_panic_or_lose_a_row(bytes in "[ab,;\"\n\r\t \\[\\]{}:\\\\ué]{0,60}") {
        for name in ["a.csv", "a.tsv", "a.jsonl", "a.json"] {
            if let Err(error) = read(name, &bytes) {
                prop_assert!(!error.to_string().contains("bug in Regard"), "{}", error);
            }
        }
    }
}
