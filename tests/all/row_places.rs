//! No result depends on which other samples stand in a call. ONNX Runtime adds the five numbers of the networks in
//! tests/data/row_places (made by `scripts/make_row_places.py`) differently in different rows of a call.

use std::path::Path;

use flowgauge::features::Extractor;
use flowgauge::model::latent::LatentEncoding;
use flowgauge::model::loaded::{Model, SessionOptions};
use flowgauge::model::onnx::{Provider, Runtime};
use flowgauge::num::Batch;
use flowgauge::num::key::{Purpose, RngKey, SampleId};
use ndarray::Axis;

const SAMPLES: usize = 300;
const SIZE: usize = 5;

fn folder() -> &'static Path {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/row_places"
    ))
}

fn runtime() -> &'static Runtime {
    Runtime::get(None).expect("ONNX Runtime is found or fetched")
}

fn model() -> Model {
    Model::open(&folder().join("card.yaml")).expect("a card")
}

const OPTIONS: SessionOptions = SessionOptions {
    provider: Provider::Cpu,
    threads: 1,
};

fn states() -> Batch {
    let draws = RngKey { seed: 1 }.normal(Purpose::Check, 0, 0, SAMPLES * SIZE);
    draws
        .into_shape_with_order((SAMPLES, SIZE))
        .expect("five numbers per sample")
}

/// Checks that `values` gives each sample the same bytes with all others as in small parts, and in another order.
fn holds_for_any_part(mut values: impl FnMut(&[SampleId], &Batch) -> Batch) {
    let x = states();
    let all: Vec<SampleId> = (0..SAMPLES as SampleId).collect();
    let whole = values(&all, &x);
    let mut parts: Vec<Vec<SampleId>> = vec![all.iter().rev().copied().collect()];
    for size in [1, 3, 7] {
        parts.extend(all.chunks(size).map(<[SampleId]>::to_vec));
    }
    for samples in parts {
        let rows: Vec<usize> = samples.iter().map(|sample| *sample as usize).collect();
        let part = values(&samples, &x.select(Axis(0), &rows));
        let same = part
            .iter()
            .zip(&whole.select(Axis(0), &rows))
            .all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "samples {samples:?}");
    }
}

#[test]
fn encoders_and_decoders_ignore_the_other_samples() {
    let model = model();
    let mut encoder = model.encoder(runtime(), OPTIONS).expect("an encoder");
    let key = RngKey { seed: 1 };
    holds_for_any_part(|samples, x| {
        encoder
            .encode(samples, x, LatentEncoding::Mean, key)
            .expect("latents")
    });
    let mut decoder = model
        .decoder(runtime(), OPTIONS)
        .expect("a decoder")
        .expect("the card has one");
    holds_for_any_part(|samples, x| decoder.decode(samples, x).expect("data"));
}

#[test]
fn energies_ignore_the_other_samples() {
    let mut energy = model().energy(runtime(), OPTIONS).expect("an energy");
    holds_for_any_part(|samples, x| {
        let values = energy.evaluate(samples, x.view(), &[SIZE]).expect("values");
        Batch::from_shape_vec((values.len(), 1), values).expect("one number per sample")
    });
}

#[test]
fn features_ignore_the_other_samples() {
    let path = folder().join("softmax.onnx");
    let mut extractor = Extractor::open(&path, runtime(), Provider::Cpu, 1).expect("an extractor");
    holds_for_any_part(|_, x| {
        let extracted = extractor.extract(x.view(), &[SIZE], None);
        extracted.expect("features").features
    });
}
