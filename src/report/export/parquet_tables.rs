//! Every table as a parquet file, with typed columns.

use std::sync::Arc;

use anyhow::Result;
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use serde_json::Value;

use super::{ExportSource, ExportedFile};

/// A file for every table that has rows.
pub(super) fn parquet_files(source: &ExportSource) -> Result<Vec<ExportedFile>> {
    let mut files = Vec::new();
    for (name, rows) in source.tables.to_json(|_| true)? {
        let rows = rows.as_array().cloned().unwrap_or_default();
        if !rows.is_empty() {
            files.push(ExportedFile {
                name: format!("{name}.parquet"),
                content: parquet_file(&rows)?,
            });
        }
    }
    Ok(files)
}

/// The type of a column: whole numbers, numbers, or texts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ColumnType {
    Whole,
    Number,
    Text,
}

fn column_type(rows: &[Value], name: &str) -> ColumnType {
    let values = || {
        rows.iter()
            .map(|row| &row[name])
            .filter(|value| !value.is_null())
    };
    match () {
        () if values().all(|v| v.is_i64() || v.is_u64()) && values().next().is_some() => {
            ColumnType::Whole
        }
        () if values().all(Value::is_number) => ColumnType::Number,
        () => ColumnType::Text,
    }
}

fn parquet_file(rows: &[Value]) -> Result<Vec<u8>> {
    let names: Vec<String> = (rows[0].as_object().into_iter())
        .flat_map(|row| row.keys().cloned())
        .collect();
    let types: Vec<ColumnType> = names.iter().map(|name| column_type(rows, name)).collect();
    let field = |(name, kind): (&String, &ColumnType)| -> Result<Arc<Type>> {
        let (physical, logical) = match kind {
            ColumnType::Whole => (Physical::INT64, None),
            ColumnType::Number => (Physical::DOUBLE, None),
            ColumnType::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        };
        let built = Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(logical)
            .build()?;
        Ok(Arc::new(built))
    };
    let fields = names
        .iter()
        .zip(&types)
        .map(field)
        .collect::<Result<Vec<_>>>()?;
    let schema = Type::group_type_builder("table")
        .with_fields(fields)
        .build()?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::new(properties))?;
    let mut group = writer.next_row_group()?;
    for (name, kind) in names.iter().zip(&types) {
        let values: Vec<&Value> = rows
            .iter()
            .map(|row| &row[name])
            .filter(|value| !value.is_null())
            .collect();
        let levels: Vec<i16> = rows
            .iter()
            .map(|row| i16::from(!row[name].is_null()))
            .collect();
        let Some(mut column) = group.next_column()? else {
            break;
        };
        match kind {
            ColumnType::Whole => {
                let values: Vec<i64> = values.iter().filter_map(|v| v.as_i64()).collect();
                column
                    .typed::<Int64Type>()
                    .write_batch(&values, Some(&levels), None)?;
            }
            ColumnType::Number => {
                let values: Vec<f64> = values.iter().filter_map(|v| v.as_f64()).collect();
                column
                    .typed::<DoubleType>()
                    .write_batch(&values, Some(&levels), None)?;
            }
            ColumnType::Text => {
                let text = |value: &&Value| match value {
                    Value::String(text) => ByteArray::from(text.as_str()),
                    other => ByteArray::from(other.to_string().as_str()),
                };
                let values: Vec<ByteArray> = values.iter().map(text).collect();
                column
                    .typed::<ByteArrayType>()
                    .write_batch(&values, Some(&levels), None)?;
            }
        }
        column.close()?;
    }
    group.close()?;
    writer.close()?;
    Ok(bytes)
}
