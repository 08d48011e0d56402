//! Parquet tables: their columns of numbers.

use anyhow::{Result, bail};

use super::Array;

#[cfg(feature = "parquet")]
pub(super) fn parquet(bytes: &[u8]) -> Result<Array> {
    use anyhow::anyhow;
    use polars::prelude::*;
    let frame =
        ParquetReader::new(std::io::Cursor::new(bytes)).finish().map_err(|e| anyhow!("it is no parquet table: {e}"))?;
    let numeric: Vec<_> = frame.columns().iter().filter(|c| c.dtype().is_primitive_numeric()).collect();
    let mut values = ndarray::Array2::zeros((frame.height(), numeric.len()));
    for (j, column) in numeric.iter().enumerate() {
        let column = column.cast(&DataType::Float64)?;
        for (i, v) in column.f64()?.iter().enumerate() {
            values[[i, j]] = v.unwrap_or(f64::NAN);
        }
    }
    let integers = numeric.iter().all(|c| c.dtype().is_integer());
    let numbers = if integers { super::Numbers::Integers } else { super::Numbers::Reals };
    Ok(Array { values: values.into_dyn(), numbers, notes: Vec::new() })
}

#[cfg(not(feature = "parquet"))]
pub(super) fn parquet(_bytes: &[u8]) -> Result<Array> {
    bail!("this build reads no parquet; build with `--features parquet`, or give .npy or .csv")
}
