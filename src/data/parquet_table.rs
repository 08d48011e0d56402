//! Parquet tables: reads their numeric columns.

use std::sync::Once;

use anyhow::{Result, anyhow, bail};
use ndarray::{ArrayD, IxDyn};
use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::data_type::Decimal;
use parquet::file::metadata::KeyValue;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;

use super::csv_table::{abbreviate_list, non_numeric_columns_note};
use super::{NumberKind, ParsedArray};

/// The name of the thread that reads a table.
const READER_THREAD: &str = "parquet";

/// The largest number of values in a table. A few bytes may claim any number of equal values.
const MAX_NUMBERS: i64 = 1 << 30;

/// Reads the numeric columns of a Parquet table. The index that pandas adds is excluded.
///
/// # Errors
/// Fails if the bytes are not a Parquet table, or if a number is missing. The message names the row
/// and the column.
pub(super) fn array_from_parquet(bytes: &[u8]) -> Result<ParsedArray> {
    // The reader panics on some damaged files. It runs in a thread of its own, whose panics print
    // nothing and become an error here.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| match std::thread::current().name() {
            Some(READER_THREAD) => {}
            _ => default_hook(info),
        }));
    });
    let damaged = || anyhow!("it is no parquet table: it is damaged");
    std::thread::scope(|scope| {
        let reader = std::thread::Builder::new()
            .name(READER_THREAD.to_owned())
            .spawn_scoped(scope, || read_parquet_columns(bytes))?;
        reader.join().unwrap_or_else(|_| Err(damaged()))
    })
}

/// Reads the numeric columns. It may panic if the file is damaged.
fn read_parquet_columns(bytes: &[u8]) -> Result<ParsedArray> {
    let damaged = |e: parquet::errors::ParquetError| anyhow!("it is no parquet table: {e}");
    let reader =
        SerializedFileReader::new(bytes::Bytes::copy_from_slice(bytes)).map_err(damaged)?;
    let file = reader.metadata().file_metadata();
    let index = index_columns(file.key_value_metadata());
    let is_index =
        |name: &str| index.iter().any(|i| i == name) || name.starts_with("__index_level_");
    let (mut numeric, mut left_out, mut indices) = (Vec::new(), Vec::new(), Vec::new());
    for field in file.schema().get_fields() {
        match column_kind(field) {
            _ if is_index(field.name()) => indices.push(format!("`{}`", field.name())),
            ColumnKind::Integer | ColumnKind::Real => numeric.push(field.clone()),
            ColumnKind::Other(what) => left_out.push(format!("`{}` ({what})", field.name())),
        }
    }
    if numeric.is_empty() {
        bail!(
            "it has no column of numbers: {}",
            abbreviate_list(left_out.iter().chain(&indices).map(String::as_str))
        );
    }
    let (rows, width) = (file.num_rows(), numeric.len());
    if rows.saturating_mul(width as i64) > MAX_NUMBERS {
        bail!(
            "it claims {rows} rows of {width} numbers; expected at most {MAX_NUMBERS} numbers in \
             all"
        );
    }
    let mut notes = Vec::new();
    if !indices.is_empty() {
        notes.push(format!("the index {} is left out", indices.join(", ")));
    }
    if !left_out.is_empty() {
        notes.push(non_numeric_columns_note(&left_out));
    }
    let integers = numeric
        .iter()
        .all(|f| matches!(column_kind(f), ColumnKind::Integer));
    let selected = Type::group_type_builder(file.schema().name())
        .with_fields(numeric)
        .build()
        .map_err(damaged)?;
    let mut values = Vec::new();
    for (i, row) in reader
        .get_row_iter(Some(selected))
        .map_err(damaged)?
        .enumerate()
    {
        let row = row.map_err(damaged)?;
        for (name, field) in row.get_column_iter() {
            values.push(
                field_to_f64(field)
                    .ok_or_else(|| anyhow!("row {i}, column `{name}`: it holds no number"))?,
            );
        }
    }
    let numbers = if integers {
        NumberKind::Integers
    } else {
        NumberKind::Floats
    };
    Ok(ParsedArray {
        values: ArrayD::from_shape_vec(IxDyn(&[values.len() / width, width]), values)?.into(),
        number_kind: numbers,
        are_features: false,
        notes,
    })
}

/// The columns that pandas declares as its index.
fn index_columns(metadata: Option<&Vec<KeyValue>>) -> Vec<String> {
    let text = metadata
        .into_iter()
        .flatten()
        .find(|pair| pair.key == "pandas")
        .and_then(|pair| pair.value.as_deref());
    let metadata_json: Option<serde_json::Value> =
        text.and_then(|text| serde_json::from_str(text).ok());
    let columns = metadata_json
        .as_ref()
        .and_then(|metadata_json| metadata_json.get("index_columns")?.as_array().cloned())
        .unwrap_or_default();
    // An index that is not a column is an object with a range, not a string.
    columns
        .iter()
        .filter_map(|c| c.as_str().map(str::to_owned))
        .collect()
}

/// The kind of a column. `Other` says in words what the column holds instead of numbers.
enum ColumnKind {
    Integer,
    Real,
    Other(&'static str),
}

/// The kind of a column.
fn column_kind(field: &Type) -> ColumnKind {
    let info = field.get_basic_info();
    if !field.is_primitive() || info.repetition() == Repetition::REPEATED {
        return ColumnKind::Other("lists");
    }
    let (converted, logical) = (info.converted_type(), info.logical_type_ref());
    match (field.get_physical_type(), logical) {
        (Physical::FLOAT | Physical::DOUBLE, _)
        | (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Float16)) => ColumnKind::Real,
        _ if converted == ConvertedType::DECIMAL => ColumnKind::Real,
        (Physical::INT32 | Physical::INT64, None | Some(LogicalType::Integer { .. }))
            if !is_time_type(converted) =>
        {
            ColumnKind::Integer
        }
        (Physical::INT32 | Physical::INT64 | Physical::INT96, _) => ColumnKind::Other("times"),
        (Physical::BOOLEAN, _) => ColumnKind::Other("true and false"),
        _ => ColumnKind::Other("text"),
    }
}

/// Whether integers of this type are dates or times.
fn is_time_type(converted: ConvertedType) -> bool {
    use ConvertedType as C;
    matches!(
        converted,
        C::DATE | C::TIME_MILLIS | C::TIME_MICROS | C::TIMESTAMP_MILLIS | C::TIMESTAMP_MICROS
    )
}

/// The number in a cell. `None` if it is missing or not a number.
fn field_to_f64(field: &Field) -> Option<f64> {
    Some(match field {
        Field::Byte(v) => f64::from(*v),
        Field::Short(v) => f64::from(*v),
        Field::Int(v) => f64::from(*v),
        Field::Long(v) => *v as f64,
        Field::UByte(v) => f64::from(*v),
        Field::UShort(v) => f64::from(*v),
        Field::UInt(v) => f64::from(*v),
        Field::ULong(v) => *v as f64,
        Field::Float16(v) => v.to_f64(),
        Field::Float(v) => f64::from(*v),
        Field::Double(v) => *v,
        Field::Decimal(v) => decimal_to_f64(v)?,
        _ => return None,
    })
}

/// A decimal number: an integer of at most 16 bytes, highest byte first, divided by a power of ten.
fn decimal_to_f64(value: &Decimal) -> Option<f64> {
    let bytes = value.data();
    let sign = if bytes.first()? & 0x80 == 0 { 0 } else { -1 };
    let whole = (bytes.len() <= 16).then(|| {
        bytes
            .iter()
            .fold(sign, |v: i128, b| v << 8 | i128::from(*b))
    })?;
    Some(whole as f64 / 10f64.powi(value.scale()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::basic::Compression;
    use parquet::data_type::{
        BoolType, ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType,
        FloatType, Int32Type, Int64Type,
    };
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// A table with three rows and the columns `fields`.
    fn written(fields: &str, compression: Compression, metadata: Option<&str>) -> Vec<u8> {
        let schema =
            parse_message_type(&format!("message schema {{ {fields} }}")).expect("a schema");
        let pair = metadata.map(|text| vec![KeyValue::new("pandas".to_owned(), text.to_owned())]);
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_key_value_metadata(pair)
            .build();
        let mut bytes = Vec::new();
        let mut writer =
            SerializedFileWriter::new(&mut bytes, Arc::new(schema.clone()), Arc::new(properties))
                .expect("it");
        let mut group = writer.next_row_group().expect("a group");
        for field in schema.get_fields() {
            let mut column = group.next_column().expect("a column").expect("one more");
            let levels = (field.get_basic_info().repetition() == Repetition::OPTIONAL)
                .then_some(&[1i16, 0, 1][..]);
            let n = levels.map_or(3, |_| 2);
            macro_rules! write {
                ($ty:ty, $values:expr) => {
                    column
                        .typed::<$ty>()
                        .write_batch(&$values[..n], levels, None)
                        .map(drop)
                        .expect("written")
                };
            }
            let halves = [0.5f32, 1.5, 2.5].map(|v| half::f16::from_f32(v).to_le_bytes().to_vec());
            match field.get_physical_type() {
                Physical::DOUBLE => write!(DoubleType, [0.5, 1.5, 2.5]),
                Physical::FLOAT => write!(FloatType, [0.5, 1.5, 2.5]),
                Physical::INT32 => write!(Int32Type, [1, -2, 3]),
                Physical::INT64 => write!(Int64Type, [10, 20, 30]),
                Physical::BOOLEAN => write!(BoolType, [true, false, true]),
                Physical::BYTE_ARRAY => write!(ByteArrayType, ["a", "b", "c"].map(ByteArray::from)),
                _ => write!(
                    FixedLenByteArrayType,
                    halves.map(|b| FixedLenByteArray::from(ByteArray::from(b)))
                ),
            }
            column.close().expect("closed");
        }
        group.close().expect("closed");
        writer.close().expect("closed");
        bytes
    }

    #[test]
    fn parquet_reads_every_number_type_and_compression() {
        let half = [0.5, 1.5, 2.5];
        let whole = [1.0, -2.0, 3.0];
        for (fields, numbers, integers, notes) in [
            ("required double x;", &half, false, ""),
            ("required float x;", &half, false, ""),
            (
                "required fixed_len_byte_array(2) x (FLOAT16);",
                &half,
                false,
                "",
            ),
            ("required int32 x;", &whole, true, ""),
            ("required int32 x (INT_8);", &whole, true, ""),
            (
                "required int32 x (DECIMAL(9, 1));",
                &[0.1, -0.2, 0.3],
                false,
                "",
            ),
            ("required int64 x;", &[10.0, 20.0, 30.0], true, ""),
            (
                "required int64 x (DECIMAL(12, 1));",
                &[1.0, 2.0, 3.0],
                false,
                "",
            ),
            (
                "required boolean t; required double x;",
                &half,
                false,
                "`t` (true and false)",
            ),
            (
                "required binary s (UTF8); required double x;",
                &half,
                false,
                "`s` (text)",
            ),
            (
                "required int64 d (TIMESTAMP(NANOS,true)); required double x;",
                &half,
                false,
                "`d` (times)",
            ),
            (
                "required int32 d (DATE); required double x;",
                &half,
                false,
                "`d` (times)",
            ),
            (
                "required double x; required int64 __index_level_0__;",
                &half,
                false,
                "the index `__index_level_0__`",
            ),
        ] {
            for compression in [
                Compression::UNCOMPRESSED,
                Compression::SNAPPY,
                Compression::ZSTD(Default::default()),
                Compression::LZ4_RAW,
                Compression::GZIP(Default::default()),
            ] {
                let read = array_from_parquet(&written(fields, compression, None)).expect(fields);
                assert_eq!(read.values.shape(), [3, 1], "{fields}");
                let found = read.values.to_array();
                assert!(
                    found
                        .iter()
                        .zip(numbers)
                        .all(|(a, b)| (a - b).abs() < 1e-15),
                    "{fields}: {found}"
                );
                assert_eq!(
                    read.number_kind == NumberKind::Integers,
                    integers,
                    "{fields}"
                );
                assert!(
                    read.notes.concat().contains(notes)
                        && read.notes.is_empty() == notes.is_empty(),
                    "{fields}"
                );
            }
        }
        let named = written(
            "required int64 id; required double x;",
            Compression::SNAPPY,
            Some(r#"{"index_columns": ["id"]}"#),
        );
        let read = array_from_parquet(&named).expect("read");
        assert_eq!(
            (read.values.shape(), &read.notes[..]),
            (&[3, 1][..], &["the index `id` is left out".to_owned()][..])
        );
        let ranged = Some(r#"{"index_columns": [{"kind": "range", "name": null}]}"#);
        let read = array_from_parquet(&written(
            "required int64 id; required double x;",
            Compression::SNAPPY,
            ranged,
        ))
        .expect("read");
        assert_eq!(
            read.values.to_array(),
            ndarray::array![[10.0, 0.5], [20.0, 1.5], [30.0, 2.5]].into_dyn()
        );
    }

    #[test]
    fn parquet_refuses_damaged_and_non_numeric_tables() {
        let whole = written(
            "required double x; required float y;",
            Compression::SNAPPY,
            None,
        );
        let why = |bytes: &[u8]| format!("{:#}", array_from_parquet(bytes).expect_err("no table"));
        assert!(why(b"PAR1").contains("no parquet table"));
        assert!(why(&whole[..whole.len() - 9]).contains("no parquet table"));
        assert!(
            why(&written(
                "required binary s (UTF8);",
                Compression::SNAPPY,
                None
            ))
            .contains("no column of numbers: `s`")
        );
        let hole = written(
            "required double x; optional double y;",
            Compression::SNAPPY,
            None,
        );
        assert!(why(&hole).contains("row 1, column `y`: it holds no number"));
        // Damage at any byte gives an error or a table. It never ends the program.
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            let _ = array_from_parquet(&damaged);
        }
    }
}
