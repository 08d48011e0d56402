//! Odd inputs, wherever an array is read: tables of every kind, half precision, images of every depth; and data whose
//! bits per dimension would bound nothing.

use std::path::Path;

use half::{bf16, f16};
use ndarray::{ArrayD, Axis, IxDyn};
use ndarray_npy::write_npy;

use super::cli::{flowgauge, folder, npy, refused, strs, write};
use super::shapes::{N, PLACES, images, model};

/// A table of text with the given separator and decimal mark.
fn text(values: &ArrayD<f32>, separator: &str, decimal: &str) -> Vec<String> {
    let row = |row: ndarray::ArrayViewD<f32>| {
        row.iter()
            .map(|v| format!("{v:.6}").replace('.', decimal))
            .collect::<Vec<_>>()
            .join(separator)
    };
    values.axis_iter(Axis(0)).map(row).collect()
}

/// Rows under a header, each with something before it.
fn table(header: &str, rows: &[String], before: impl Fn(usize) -> String) -> String {
    let rows = rows.iter().enumerate().map(|(i, row)| before(i) + row);
    std::iter::once(header.to_owned())
        .chain(rows)
        .map(|line| line + "\n")
        .collect()
}

fn counted(n: usize, separator: &str) -> String {
    (0..n)
        .map(|i| i.to_string())
        .collect::<Vec<_>>()
        .join(separator)
}

/// A picture of 8 × 8 numbers in the given form.
fn png(
    at: &Path,
    name: &str,
    color: png::ColorType,
    depth: png::BitDepth,
    data: &[u8],
    palette: Option<&[u8]>,
) {
    std::fs::create_dir_all(at.join(name).parent().expect("a folder")).expect("made");
    let mut encoder =
        png::Encoder::new(std::fs::File::create(at.join(name)).expect("a file"), 8, 8);
    encoder.set_color(color);
    encoder.set_depth(depth);
    palette
        .into_iter()
        .for_each(|p| encoder.set_palette(p.to_vec()));
    encoder
        .write_header()
        .expect("a header")
        .write_image_data(data)
        .expect("written");
}

fn wave(i: usize, levels: usize) -> u16 {
    (i * 7919 % levels) as u16
}

/// Words of a message.
type Words = &'static [&'static str];

/// Files that every place reads, with words of the note that they get, or refuses, with words of the message.
fn odd(at: &Path) -> Vec<(&'static str, Result<Words, Words>)> {
    let flat = images()
        .to_shape(IxDyn(&[N, 192]))
        .expect("as many numbers")
        .into_owned();
    let (rows, semicolons) = (text(&flat, ",", "."), text(&flat, ";", ","));
    write(
        at,
        "range.csv",
        table(&counted(192, ","), &rows, |_| String::new()),
    );
    write(
        at,
        "frame.csv",
        table(&format!(",{}", counted(192, ",")), &rows, |i| {
            format!("{i},")
        }),
    );
    write(at, "german.csv", semicolons.join("\n"));
    write(at, "tabs.csv", rows.join("\n").replace(',', "\t"));
    let named = (0..192)
        .map(|i| format!("x{i}"))
        .collect::<Vec<_>>()
        .join(",");
    write(
        at,
        "bools.csv",
        table(&format!("kept,{named}"), &rows, |i| {
            format!("{},", ["True", "False"][i % 2])
        }),
    );
    write(
        at,
        "hole.csv",
        table(&named, &rows, |_| String::new())
            .replacen("\n0.", "\n,0.", 1)
            .replacen("\n-0.", "\n,-0.", 1),
    );
    let mut words = rows.clone();
    words[2] = words[2]
        .split_once(',')
        .map(|(_, rest)| format!("none,{rest}"))
        .expect("cells");
    write(at, "words.csv", words.join("\n"));
    write(at, "text.csv", "a,b\nx,y\n");
    let halves: Vec<u8> = flat
        .iter()
        .flat_map(|v| f16::from_f32(*v).to_le_bytes())
        .collect();
    write(at, "half.npy", npy("<f2", &format!("({N}, 192)"), &halves));
    let brains: Vec<u8> = flat
        .iter()
        .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
        .collect();
    write(at, "brain.npy", npy("<V2", &format!("({N}, 192)"), &brains));
    write(at, "long.npy", npy("<f16", "(1, 1)", &[0; 16]));
    write(at, "damaged.parquet", b"PAR1 and nothing else PAR1");
    let (rgb, rgba) = (png::ColorType::Rgb, png::ColorType::Rgba);
    let (eight, sixteen) = (png::BitDepth::Eight, png::BitDepth::Sixteen);
    png(at, "depths/a.png", rgb, eight, &[7; 192], None);
    png(at, "depths/b.png", rgb, sixteen, &[7; 384], None);
    png(at, "seen/a.png", rgb, eight, &[7; 192], None);
    png(at, "seen/b.png", rgba, eight, &[7; 256], None);
    png(at, "sorted/cats/a.png", rgb, eight, &[7; 192], None);
    vec![
        ("range.csv", Ok(&["0, 1, …, 191", "header"])),
        ("frame.csv", Ok(&["index"])),
        ("german.csv", Ok(&[])),
        ("tabs.csv", Ok(&[])),
        ("bools.csv", Ok(&["`kept` (true and false)"])),
        ("half.npy", Ok(&[])),
        ("brain.npy", Ok(&["bfloat16"])),
        ("hole.csv", Err(&["hole.csv", "no table", "cells"])),
        (
            "words.csv",
            Err(&["words.csv", "line 3, column 1", "\"none\""]),
        ),
        ("text.csv", Err(&["text.csv", "`a` (text)"])),
        ("long.npy", Err(&["long.npy", "`f16`", "float16"])),
        (
            "damaged.parquet",
            Err(&["damaged.parquet", "no parquet table"]),
        ),
        ("depths", Err(&["b.png", "16 bits", "a.png", "8"])),
        ("seen", Err(&["b.png", "transparent"])),
        (
            "sorted",
            Err(&["no image (.png, .jpg", "1 folder (`cats`)"]),
        ),
    ]
}

#[test]
fn every_place_reads_odd_inputs_right_or_refuses_them() {
    let folder = folder();
    let at = folder.path();
    model(at);
    write_npy(at.join("right.npy"), &images()).expect("written");
    for (file, expected) in odd(at) {
        for (place, args) in PLACES {
            let args = args(at, file, None);
            let _ = ["out.csv", "out.npy", "out.floor.csv"]
                .map(|out| std::fs::remove_file(at.join(out)));
            match expected {
                Ok(notes) => {
                    let done = flowgauge(at, &strs(&args));
                    done.is(0).says(notes);
                    assert!(
                        notes.is_empty() || done.stderr.contains(file),
                        "{place}: {}",
                        done.stderr
                    );
                }
                Err(words) => refused(at, &strs(&args), words),
            }
            println!("{place}: {file} as expected");
        }
    }
}

/// The numbers of a statistic, which tell whether a table was read right.
fn frechet(at: &Path, generated: &str, reference: &str) -> (String, String) {
    let args = [
        "metrics",
        "--metric=frechet",
        "--out=out.csv",
        "--generated",
        generated,
        "--reference",
        reference,
    ];
    let done = flowgauge(at, &args);
    done.is(0);
    (
        std::fs::read_to_string(at.join("out.csv")).expect("a table"),
        done.stderr,
    )
}

#[test]
fn a_table_has_the_same_statistics_in_every_form() {
    let folder = folder();
    let at = folder.path();
    let draws = |shift: f32| {
        ArrayD::from_shape_fn(IxDyn(&[60, 3]), |i| {
            let v = (i[0] * 193 + i[1] * 71) * 7919 % 1009;
            ((v as f32 / 252.25 - 2.0 + shift) * 1e4).round() / 1e4
        })
    };
    let (mut plain, mut forms) = (String::new(), Vec::new());
    for (name, values) in [("a", draws(0.0)), ("b", draws(0.7))] {
        let (rows, semicolons) = (text(&values, ",", "."), text(&values, ";", ","));
        let file = |form: &str, text: String| write(at, &format!("{name}.{form}.csv"), text);
        file("plain", rows.join("\n"));
        forms = vec![
            (
                "range",
                file("range", table("0,1,2", &rows, |_| String::new())),
            ),
            (
                "frame",
                file("frame", table(",x,y,z", &rows, |i| format!("{i},"))),
            ),
            (
                "named",
                file("named", table("x,y,z", &rows, |_| String::new())),
            ),
            ("german", file("german", semicolons.join("\r\n"))),
            (
                "both",
                file("both", table(";x;y;z", &semicolons, |i| format!("{i};"))),
            ),
            ("tab", file("tab", rows.join("\n").replace(',', "\t"))),
            (
                "flags",
                file(
                    "flags",
                    table("ok,x,y,z", &rows, |i| format!("{},", i % 3 > 0)),
                ),
            ),
        ];
        parquet(&at.join(format!("{name}.index.parquet")), &values, true);
        parquet(&at.join(format!("{name}.columns.parquet")), &values, false);
    }
    for form in std::iter::once("plain").chain(forms.iter().map(|(form, _)| *form)) {
        let (numbers, said) = frechet(at, &format!("a.{form}.csv"), &format!("b.{form}.csv"));
        if plain.is_empty() {
            plain.clone_from(&numbers);
        }
        assert_eq!(numbers, plain, "{form}");
        assert_eq!(
            said.is_empty(),
            ["plain", "named", "german", "tab"].contains(&form),
            "{form}: {said}"
        );
    }
    for form in ["index", "columns"] {
        let (numbers, said) = frechet(
            at,
            &format!("a.{form}.parquet"),
            &format!("b.{form}.parquet"),
        );
        let near = |text: &str| {
            text.lines()
                .nth(1)
                .and_then(|l| l.split(',').nth(1)?.parse::<f64>().ok())
                .expect("it")
        };
        assert!(
            (near(&numbers) / near(&plain) - 1.0).abs() < 1e-5,
            "{form}: {numbers} {plain}"
        );
        assert_eq!(
            said.contains("__index_level_0__"),
            form == "index",
            "{said}"
        );
    }
}

/// Three columns of doubles, and the index of a data frame where it is asked for.
fn parquet(at: &Path, values: &ArrayD<f32>, index: bool) {
    use ::parquet::data_type::{DoubleType, Int64Type};
    use ::parquet::file::properties::WriterProperties;
    use ::parquet::file::writer::SerializedFileWriter;
    use ::parquet::schema::parser::parse_message_type;
    let level = if index {
        "required int64 __index_level_0__;"
    } else {
        ""
    };
    let text = format!(
        "message schema {{ required double x; required double y; required double z; {level} }}"
    );
    let schema = parse_message_type(&text).expect("a schema");
    let file = std::fs::File::create(at).expect("a file");
    let mut writer = SerializedFileWriter::new(file, schema.into(), WriterProperties::new().into())
        .expect("a writer");
    let mut group = writer.next_row_group().expect("a group");
    for column in values.axis_iter(Axis(1)) {
        let column: Vec<f64> = column.iter().map(|v| f64::from(*v)).collect();
        let mut next = group.next_column().expect("a column").expect("one more");
        next.typed::<DoubleType>()
            .write_batch(&column, None, None)
            .expect("written");
        next.close().expect("closed");
    }
    if index {
        let counted: Vec<i64> = (0..values.shape()[0] as i64).map(|i| 3 * i).collect();
        let mut next = group.next_column().expect("a column").expect("one more");
        next.typed::<Int64Type>()
            .write_batch(&counted, None, None)
            .expect("written");
        next.close().expect("closed");
    }
    group.close().expect("closed");
    writer.close().expect("closed");
}

/// The card of the shapes' tests under other `data`.
fn card(at: &Path, name: &str, data: &str) {
    let text = std::fs::read_to_string(at.join("card.yaml")).expect("a card");
    let usual = "data: {range: [-1, 1], levels: 256}\n";
    assert!(text.contains(usual));
    write(at, name, text.replace(usual, data));
}

fn likelihood(card: &str, data: &str, other: &[&str]) -> Vec<String> {
    let usual = [
        "likelihood",
        "--divergence=exact",
        "--solver={euler: {steps: 2}}",
        "--out=out.csv",
    ];
    let all = usual
        .into_iter()
        .chain(["--model", card, "--data", data])
        .chain(other.iter().copied());
    all.map(str::to_owned).collect()
}

/// A column of `out.csv`.
fn column(at: &Path, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(at.join("out.csv")).expect("a table");
    let place = text
        .lines()
        .next()
        .and_then(|l| l.split(',').position(|c| c == name))
        .expect("the column");
    text.lines()
        .skip(1)
        .map(|l| l.split(',').nth(place).expect("a cell").to_owned())
        .collect()
}

/// Images of bytes, and noise in [0, 1) for each of their numbers.
fn bytes() -> (ArrayD<f32>, ArrayD<f32>) {
    let of = |by: u64| {
        let draw = move |i: ndarray::IxDyn| {
            let at = ndarray::Dimension::slice(&i)
                .iter()
                .fold(by, |a, i| a * 31 + *i as u64);
            // SplitMix64, whose neighbours are unrelated.
            let z = at.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
        };
        ArrayD::from_shape_fn(IxDyn(&[20, 3, 8, 8]), draw)
    };
    (of(3000).mapv(|u| (256.0 * u).floor()), of(7_000_000))
}

#[test]
fn bits_per_dimension_are_of_dequantized_data_alone() {
    let folder = folder();
    let at = folder.path();
    model(at);
    card(at, "plain.yaml", "");
    card(at, "range.yaml", "data: {range: [-1, 1]}\n");
    card(at, "deep.yaml", "data: {range: [-1, 1], levels: 65536}\n");
    let (x, u) = bytes();
    let of = |f: &dyn Fn(f32, f32, usize) -> f32| {
        let mut out = x.clone();
        out.indexed_iter_mut()
            .zip(&u)
            .for_each(|((i, v), u)| *v = f(*v, *u, i[1]));
        out
    };
    const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
    const STD: [f32; 3] = [0.229, 0.224, 0.225];
    let dequantized = |v: f32, u: f32| (v + u) / 128.0 - 1.0;
    let floats: Vec<(&str, ArrayD<f32>, &[&str])> = vec![
        (
            "imagenet",
            of(&|v, _, c| (v / 255.0 - MEAN[c]) / STD[c]),
            &["equally spaced"],
        ),
        (
            "cifar",
            of(&|v, _, c| (v / 255.0 - [0.4914, 0.4822, 0.4465][c]) / [0.247, 0.243, 0.261][c]),
            &["equally spaced"],
        ),
        (
            "mnist",
            of(&|v, _, _| (v / 255.0 - 0.1307) / 0.3081),
            &["equally spaced"],
        ),
        (
            "binary",
            of(&|v, _, _| f32::from(v > 128.0)),
            &["two values, 0 and 1"],
        ),
        (
            "signs",
            of(&|v, _, _| if v > 128.0 { 1.0 } else { -1.0 }),
            &["two values, -1 and 1"],
        ),
        (
            "one-hot",
            of(&|v, _, c| f32::from((v / 86.0) as usize == c)),
            &["two values"],
        ),
        (
            "float16",
            of(&|v, u, _| f16::from_f32(dequantized(v, u)).to_f32()),
            &["rounded to float16"],
        ),
        (
            "bfloat16",
            of(&|v, u, _| bf16::from_f32(dequantized(v, u)).to_f32()),
            &["rounded to bfloat16"],
        ),
        (
            "sixteen",
            of(&|v, u, _| (256.0 * v + (256.0 * u).floor()) / 32767.5 - 1.0),
            &["spaced"],
        ),
        (
            "gamma",
            of(&|v, _, _| 2.0 * (v / 255.0).powf(2.2) - 1.0),
            &["different"],
        ),
        ("whole", of(&|v, _, _| v), &["whole numbers"]),
        (
            "unscaled",
            of(&|v, u, _| v + u),
            &["beyond the card's range [-1, 1]"],
        ),
        (
            "unsigned",
            of(&|v, u, _| (v + u) / 256.0),
            &["range [0, 1]"],
        ),
    ];
    let config = |card: &str, file: &str, other: &str| {
        let text = format!(
            "name: it\nestimators: [exact]\nsolvers: [{{euler: {{steps: 1}}}}]\n\
             likelihood:\n  - {{model: {card}, data: {file}, samples: 2, profile: 0{other}}}\n"
        );
        write(at, "config.yaml", text);
        ["plan", "config.yaml"]
    };
    for (name, values, words) in &floats {
        let file = format!("{name}.npy");
        write_npy(at.join(&file), values).expect("written");
        let words = [&[&*file, "--lattice allow"], *words].concat();
        refused(at, &strs(&likelihood("card.yaml", &file, &[])), &words);
        let plan = config("card.yaml", &file, "");
        refused(at, &plan, &[&words[..], &["likelihood.0"]].concat());
        flowgauge(
            at,
            &strs(&likelihood("card.yaml", &file, &["--lattice=allow"])),
        )
        .is(0)
        .says(&["bound nothing"]);
        assert!(column(at, "bound").iter().all(|b| b == "none"), "{name}");
        assert!(
            column(at, "bits_per_dim")
                .iter()
                .all(|b| b.parse::<f64>().is_ok()),
            "{name}"
        );
        std::fs::remove_file(at.join("out.csv")).expect("written");
        // Without levels there are no bits per dimension, and only what is unmistakable is refused.
        if *name != "whole" {
            for card in ["plain.yaml", "range.yaml"] {
                flowgauge(at, &strs(&likelihood(card, &file, &[]))).is(0);
                assert!(
                    column(at, "bits_per_dim").iter().all(String::is_empty),
                    "{name}"
                );
                std::fs::remove_file(at.join("out.csv")).expect("written");
            }
        }
    }
    let right = of(&|v, u, _| dequantized(v, u));
    write_npy(at.join("right.npy"), &right).expect("written");
    for allow in ["refuse", "allow"] {
        flowgauge(
            at,
            &strs(&likelihood("card.yaml", "right.npy", &["--lattice", allow])),
        )
        .is(0);
        assert_eq!(column(at, "bits_per_dim").len(), 20);
    }
    assert!(column(at, "bound").iter().all(|b| b == "density"));
    std::fs::remove_file(at.join("out.csv")).expect("written");
    // Integers of another depth.
    let whole = x.mapv(|v| v as u8);
    let wide = x.mapv(|v| v as u16 * 257);
    write_npy(at.join("u8.npy"), &whole).expect("written");
    write_npy(at.join("i64.npy"), &whole.mapv(i64::from)).expect("written");
    write_npy(at.join("u16.npy"), &wide).expect("written");
    write_npy(at.join("binary_u8.npy"), &whole.mapv(|v| v / 128)).expect("written");
    for (card, file, words) in [
        ("deep.yaml", "u8.npy", "bytes, 0 to 255"),
        ("deep.yaml", "i64.npy", "lowest sixteenth"),
        ("card.yaml", "u16.npy", "levels 0 to 255"),
        ("card.yaml", "binary_u8.npy", "from 0 to 1"),
    ] {
        refused(at, &strs(&likelihood(card, file, &[])), &[file, words]);
        refused(at, &config(card, file, ""), &[file, words]);
    }
    flowgauge(
        at,
        &strs(&likelihood(
            "deep.yaml",
            "u8.npy",
            &["--lattice=allow", "--dequantization=uniform"],
        )),
    )
    .is(0);
    assert!(column(at, "bound").iter().all(|b| b == "none"));
    for (card, file) in [
        ("card.yaml", "u8.npy"),
        ("card.yaml", "i64.npy"),
        ("deep.yaml", "u16.npy"),
    ] {
        flowgauge(at, &strs(&likelihood(card, file, &["--lattice=allow"]))).is(0);
        assert!(column(at, "bound").iter().all(|b| b == "elbo"), "{file}");
    }
    // A run says the same in its rows, its plan and its page.
    config("card.yaml", "mnist.npy", ", lattice: allow");
    flowgauge(at, &["run", "config.yaml", "--out=run"]).is(0);
    let read = |file: &str| std::fs::read_to_string(at.join("run").join(file)).expect(file);
    let samples = read("tables/samples.csv");
    let place = samples
        .lines()
        .next()
        .and_then(|l| l.split(',').position(|c| c == "bound"))
        .expect("the column");
    assert!(
        samples
            .lines()
            .skip(1)
            .all(|l| l.split(',').nth(place) == Some("none")),
        "{samples}"
    );
    assert!(
        read("plan.json").contains("equally spaced")
            && read("index.html").contains("bounds nothing")
    );
    flowgauge(at, &["verify", "run", "--fraction=1"]).is(0);
}

#[test]
fn images_keep_their_bits() {
    let folder = folder();
    let at = folder.path();
    model(at);
    card(at, "deep.yaml", "data: {range: [-1, 1], levels: 65536}\n");
    let text = std::fs::read_to_string(at.join("card.yaml")).expect("a card");
    let (rgb, grey, eight) = (
        png::ColorType::Rgb,
        png::ColorType::Grayscale,
        png::BitDepth::Eight,
    );
    // Sixteen bits, as a folder and as an array, channels first.
    let value = |n: usize, c: usize, i: usize| wave(1 + n * 192 + i * 3 + c, 65521);
    for n in 0..3 {
        let data: Vec<u8> = (0..192)
            .flat_map(|i| value(n, i % 3, i / 3).to_be_bytes())
            .collect();
        png(
            at,
            &format!("deep/{n}.png"),
            rgb,
            png::BitDepth::Sixteen,
            &data,
            None,
        );
    }
    let wide = ArrayD::from_shape_fn(IxDyn(&[3, 3, 8, 8]), |i| value(i[0], i[1], i[2] * 8 + i[3]));
    write_npy(at.join("deep.npy"), &wide).expect("written");
    let read = |card: &str, data: &str| {
        flowgauge(at, &strs(&likelihood(card, data, &[]))).is(0);
        let table = std::fs::read_to_string(at.join("out.csv")).expect("a table");
        std::fs::remove_file(at.join("out.csv")).expect("written");
        table
    };
    assert_eq!(read("deep.yaml", "deep"), read("deep.yaml", "deep.npy"));
    refused(
        at,
        &strs(&likelihood("card.yaml", "deep", &[])),
        &["deep", "levels 0 to 255"],
    );
    // Eight bits in every form that a program may have packed them into, which loses nothing.
    let colours: Vec<u8> = (0..48).map(|i| wave(i + 1, 251) as u8).collect();
    let at_pixel = |n: usize, i: usize| (n * 5 + i * 7) % 16;
    for n in 0..3 {
        let pixels = |i: usize| colours[3 * at_pixel(n, i)..][..3].to_vec();
        let plain: Vec<u8> = (0..64).flat_map(pixels).collect();
        let opaque: Vec<u8> = plain.chunks(3).flat_map(|p| [p, &[255]].concat()).collect();
        let indices: Vec<u8> = (0..64).map(|i| at_pixel(n, i) as u8).collect();
        let packed: Vec<u8> = indices.chunks(2).map(|p| p[0] << 4 | p[1]).collect();
        png(at, &format!("plain/{n}.png"), rgb, eight, &plain, None);
        png(
            at,
            &format!("opaque/{n}.png"),
            png::ColorType::Rgba,
            eight,
            &opaque,
            None,
        );
        png(
            at,
            &format!("palette/{n}.png"),
            png::ColorType::Indexed,
            eight,
            &indices,
            Some(&colours),
        );
        png(
            at,
            &format!("packed/{n}.png"),
            png::ColorType::Indexed,
            png::BitDepth::Four,
            &packed,
            Some(&colours),
        );
    }
    let plain = read("card.yaml", "plain");
    for form in ["opaque", "palette", "packed"] {
        assert_eq!(read("card.yaml", form), plain, "{form}");
    }
    refused(
        at,
        &strs(&likelihood("deep.yaml", "plain", &[])),
        &["plain", "bytes, 0 to 255"],
    );
    // One bit is black and white.
    for n in 0..3usize {
        let rows: Vec<u8> = (0..8).map(|r| wave(n * 8 + r + 1, 251) as u8).collect();
        let spread: Vec<u8> = rows
            .iter()
            .flat_map(|r| (0..8).map(move |b| if r >> (7 - b) & 1 > 0 { 255 } else { 0 }))
            .collect();
        png(
            at,
            &format!("bits/{n}.png"),
            grey,
            png::BitDepth::One,
            &rows,
            None,
        );
        png(at, &format!("bytes/{n}.png"), grey, eight, &spread, None);
    }
    let (numbers, _) = frechet(at, "bits", "bytes");
    let distance = numbers
        .lines()
        .nth(1)
        .and_then(|l| l.split(',').nth(1)?.parse::<f64>().ok());
    assert!(distance.is_some_and(|d| d.abs() < 1e-6), "{numbers}");
    // What else is in the folder is named.
    write(at, "plain/notes.txt", "no image");
    write(at, "plain/.DS_Store", "nothing");
    write(at, "plain/inner/x.png", "no image");
    let done = flowgauge(at, &strs(&likelihood("card.yaml", "plain", &[])));
    done.is(0)
        .says(&["1 file (`notes.txt`)", "1 folder (`inner`)"]);
    assert!(!done.stderr.contains("DS_Store"), "{}", done.stderr);
    assert!(text.contains("levels: 256"));
}
