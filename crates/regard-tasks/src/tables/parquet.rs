//! Parquet: columns that are text, or that have one plain way to be written as text.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Column, Contents, Lines, csv};
use crate::error::short;
use crate::{Error, Result};

/// Most bytes of all columns, unpacked.
const LIMIT: i64 = 4 << 30;

/// Reads every column that can be text; the others say what they hold when they are asked for.
pub(super) fn read(path: &Path) -> Result<Contents> {
    // The offsets that are known to make `parquet` 60 panic are checked below. A file can lie in more ways than anybody
    // has tried, and a user's file must not end the program.
    catch_unwind(AssertUnwindSafe(|| read_columns(path))).unwrap_or_else(|_| {
        Err(Error::table(
            path,
            None,
            "not a whole Parquet file: what it says of its columns cannot be",
        ))
    })
}

fn read_columns(path: &Path) -> Result<Contents> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::table(path, None, format!("not a whole Parquet file: {error}"))
    };
    let file = File::open(path).map_err(|source| Error::read(path, source))?;
    let length = file
        .metadata()
        .map_err(|source| Error::read(path, source))?
        .len();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(&error))?;
    let groups = builder.metadata().row_groups();
    let unpacked = groups.iter().try_fold(0_i64, |sum, group| {
        sum.checked_add(group.total_byte_size().max(0))
    });
    if unpacked.is_none_or(|unpacked| unpacked > LIMIT) {
        return Err(Error::table(
            path,
            None,
            format!("more than {LIMIT} bytes (4 GiB) unpacked, expected less: split it"),
        ));
    }
    for column in groups.iter().flat_map(|group| group.columns()) {
        let first = column
            .dictionary_page_offset()
            .unwrap_or(column.data_page_offset());
        let end = first
            .checked_add(column.compressed_size())
            .and_then(|end| u64::try_from(end).ok());
        let inside =
            first >= 0 && column.compressed_size() >= 0 && end.is_some_and(|end| end <= length);
        if !inside {
            let what = format!(
                "the column `{}` lies outside of the file",
                short(&column.column_path().string())
            );
            return Err(failed(&what));
        }
    }
    let rows = usize::try_from(builder.metadata().file_metadata().num_rows())
        .map_err(|error| failed(&error))?;

    let schema = builder.schema().clone();
    let names = schema
        .fields()
        .iter()
        .map(|field| Some(field.name().clone()).filter(|name| !name.is_empty()))
        .collect();
    let names = csv::checked_names(path, None, names)?;
    let columns: Vec<Column> = names
        .into_iter()
        .zip(schema.fields())
        .map(|(name, field)| Column {
            name,
            unreadable: unreadable(field.data_type()).map(|what| (None, what)),
        })
        .collect();
    let read: Vec<usize> = (0..columns.len())
        .filter(|at| columns[*at].unreadable.is_none())
        .collect();
    if read.is_empty() {
        return Err(Error::table(path, None, "no column holds text or numbers"));
    }
    let wanted: Vec<&str> = read.iter().map(|at| columns[*at].name.as_str()).collect();
    let text: std::sync::Arc<Schema> = csv::schema(&wanted).into();
    let mask = ProjectionMask::roots(builder.parquet_schema(), read.iter().copied());
    let reader = builder
        .with_projection(mask)
        .with_batch_size(1024)
        .build()
        .map_err(|error| failed(&error))?;
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let mut batches = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|error| failed(&error))?;
        let as_text = batch
            .columns()
            .iter()
            .map(|array| cast_with_options(array, &DataType::Utf8, &options));
        let as_text = as_text
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|error| failed(&error))?;
        batches.push(RecordBatch::try_new(text.clone(), as_text).map_err(|error| failed(&error))?);
    }
    Ok(Contents {
        columns,
        batches,
        lines: Lines::Records(rows),
        notes: Vec::new(),
    })
}

/// The values of a column of bytes, or of objects with a field `bytes` as Hugging Face's `datasets` writes pictures.
pub(super) fn bytes(path: &Path, name: &str) -> Result<Vec<Option<Vec<u8>>>> {
    catch_unwind(AssertUnwindSafe(|| read_bytes(path, name))).unwrap_or_else(|_| {
        let what = format!("the column `{}` cannot be read", short(name));
        Err(Error::table(path, None, what))
    })
}

fn read_bytes(path: &Path, name: &str) -> Result<Vec<Option<Vec<u8>>>> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::table(path, None, format!("not a whole Parquet file: {error}"))
    };
    let file = File::open(path).map_err(|source| Error::read(path, source))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(&error))?;
    let at = builder.schema().index_of(name);
    let at = at.map_err(|error| failed(&error))?;
    let mask = ProjectionMask::roots(builder.parquet_schema(), [at]);
    let reader = builder.with_projection(mask).with_batch_size(64).build();
    let mut values = Vec::new();
    for batch in reader.map_err(|error| failed(&error))? {
        let batch = batch.map_err(|error| failed(&error))?;
        let column = batch.column(0);
        let inner = column
            .as_struct_opt()
            .and_then(|column| column.column_by_name("bytes"));
        let column = cast_with_options(
            inner.unwrap_or(column),
            &DataType::LargeBinary,
            &CastOptions::default(),
        );
        let column = column.map_err(|error| failed(&error))?;
        let rows = column.as_binary::<i64>().iter();
        values.extend(rows.map(|bytes| bytes.map(<[u8]>::to_vec)));
    }
    Ok(values)
}

/// What a column holds that is not text; `None` if it can be read.
fn unreadable(kind: &DataType) -> Option<String> {
    match kind {
        DataType::Dictionary(_, values) => unreadable(values),
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Boolean
        | DataType::Null => None,
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => None,
        numbers if numbers.is_numeric() => None,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Some("bytes".to_owned()),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            Some("lists".to_owned())
        }
        DataType::Struct(_) => Some("objects".to_owned()),
        other => Some(format!("values of type {other}")),
    }
}
