use proptest::prelude::*;

use super::{writer::*, *};

fn sample() -> Writer {
    Writer::default()
        .str("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .f32("llama.eps", 1e-5)
        .bool("flag", true)
        .strs("tokens", &["a", "", "한글"])
        .i32s("types", &[1, -2, 3])
        .f32s("scores", &[0.5, -1.5])
        .raw(
            "nested",
            9,
            &[&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &0u32.to_le_bytes(), &2u64.to_le_bytes(), &[7, 9]].concat(),
        )
        .tensor("norm", &[4], &[1.0, 2.0, 3.0, 4.0])
        .tensor("w", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        .blocks("h", &[2], BlockType::F16, vec![0x00, 0x3c, 0x00, 0xc0])
}

fn open(bytes: &[u8]) -> Result<Gguf> {
    let (_dir, path) = save(bytes);
    Gguf::open(&path)
}

/// (field, offset, problem) of the error.
fn refused(bytes: &[u8]) -> (String, u64, String) {
    match open(bytes) {
        Err(Error::Field { field, offset, problem, .. }) => (field, offset, problem),
        Err(other) => panic!("another error: {other}"),
        Ok(_) => panic!("accepted"),
    }
}

/// Reads all that a header promises.
fn use_all(gguf: &Gguf) {
    for name in gguf.tensor_names() {
        let info = gguf.tensor(name).unwrap();
        if gguf.bytes(name).is_ok() {
            let _ = gguf.vector(name, info.elements() as usize);
            let cols = info.dims[0] as usize;
            let _ = gguf.matrix(name, info.elements() as usize / cols, cols);
        }
    }
    for key in gguf.keys() {
        let _ = (
            gguf.u64(key),
            gguf.f64(key),
            gguf.bool(key),
            gguf.str(key),
            gguf.strings(key),
            gguf.integers(key),
            gguf.floats(key),
        );
    }
}

#[test]
fn reads_what_was_written() {
    let gguf = open(&sample().bytes()).unwrap();
    assert_eq!(gguf.version(), 3);
    assert_eq!(gguf.str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(gguf.u64("llama.block_count").unwrap(), Some(2));
    assert_eq!(gguf.f64("llama.eps").unwrap(), Some(f64::from(1e-5f32)));
    assert_eq!(gguf.bool("flag").unwrap(), Some(true));
    assert_eq!(gguf.strings("tokens").unwrap().unwrap().iter().collect::<Vec<_>>(), ["a", "", "한글"]);
    assert_eq!(gguf.integers("types").unwrap().unwrap(), [1, -2, 3]);
    assert_eq!(gguf.floats("scores").unwrap().unwrap(), [0.5, -1.5]);
    assert_eq!(gguf.get("nested"), Some(&Value::Array(Array::Nested(vec![Array::Numbers { type_id: 0, bytes: vec![7, 9] }]))));
    assert_eq!(gguf.vector("norm", 4).unwrap(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(gguf.vector("h", 2).unwrap(), [1.0, -2.0]);
    let w = gguf.matrix("w", 2, 3).unwrap();
    let mut row = [0.0; 3];
    w.row(1, &mut row);
    assert_eq!(row, [4.0, 5.0, 6.0]);
    assert_eq!(gguf.u64("absent").unwrap(), None);
}

#[test]
fn wrong_types_and_shapes_are_named() {
    let gguf = open(&sample().bytes()).unwrap();
    let at = |e: Error| match e {
        Error::Field { field, offset, problem, .. } => (field, offset, problem),
        e => panic!("{e}"),
    };
    let (field, offset, problem) = at(gguf.u64("general.architecture").unwrap_err());
    assert_eq!((field.as_str(), offset), ("general.architecture", 24));
    assert_eq!(problem, "a string, but a non-negative integer is needed");
    assert!(at(gguf.strings("types").unwrap_err()).2.contains("array of integers"));
    assert!(
        matches!(gguf.vector("norm", 5), Err(Error::Tensor { name, problem }) if name == "norm" && problem.contains("[4]"))
    );
    assert!(matches!(gguf.vector("nope", 5), Err(Error::Tensor { name, .. }) if name == "nope"));
    assert!(gguf.matrix("w", usize::MAX, 3).is_err());
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample().bytes();
    let last_data = bytes.len() - 32 + 4; // the padding after the last tensor may be missing
    for len in 0..last_data {
        refused(&bytes[..len]);
    }
    open(&bytes[..last_data]).unwrap();
}

#[test]
fn versions_and_magic() {
    let with = |at: usize, new: &[u8]| {
        let mut bytes = sample().bytes();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    assert!(open(&with(4, &[2])).is_ok());
    assert!(refused(&with(4, &[1])).2.contains("version 1"));
    assert!(refused(&with(4, &[0, 0, 0, 3])).2.contains("big endian"));
    assert!(refused(&with(4, &[9])).2.contains("version 9"));
    assert_eq!(refused(&with(0, b"PK\x03\x04")).1, 0);
}

#[test]
fn lying_headers_are_refused_by_field_and_offset() {
    let with_count = |at: usize| {
        let mut bytes = sample().bytes();
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        refused(&bytes)
    };
    assert_eq!((with_count(8).0.as_str(), with_count(8).1), ("tensor_count", 8));
    assert_eq!((with_count(16).0.as_str(), with_count(16).1), ("metadata_kv_count", 16));
    assert_eq!(with_count(24).1, 24); // length of the first key
    let twice = sample().u32("flag", 1).bytes();
    assert!(refused(&twice).2.contains("twice"));
    let empty = |w: Writer| refused(&w.bytes());
    assert!(empty(sample().tensor("norm", &[1], &[0.0])).2.contains("twice"));
    assert!(empty(sample().tensor("z", &[0], &[])).2.contains("empty"));
    assert!(empty(sample().tensor("z", &[1 << 40, 1 << 40], &[])).2.contains("2^64"));
    assert!(empty(sample().tensor("z", &[1 << 62, 2], &[])).2.contains("2^64"));
    assert!(empty(sample().tensor("z", &[1 << 50], &[])).2.contains("past the end"));
    assert!(empty(sample().tensor("z", &[1, 1, 1, 1, 1], &[1.0])).2.contains("5 dimensions"));
    assert!(empty(sample().blocks("z", &[33], BlockType::Q8_0, vec![0; 68])).2.contains("whole blocks"));
    assert!(empty(sample().u32("general.alignment", 3)).2.contains("power of two"));
    let huge = [&8u32.to_le_bytes()[..], &(1u64 << 60).to_le_bytes()].concat();
    assert_eq!(empty(sample().raw("tokens2", 9, &huge)).0, "tokens2");
}

#[test]
fn deep_arrays_are_refused() {
    let mut nested = Vec::new();
    for _ in 0..100_000 {
        nested.extend(9u32.to_le_bytes());
        nested.extend(1u64.to_le_bytes());
    }
    assert!(refused(&Writer::default().raw("deep", 9, &nested).bytes()).2.contains("nested deeper"));
}

#[test]
fn unknown_types_are_refused_when_used() {
    let gguf = open(&sample().typed("q", &[256], 20, vec![0; 144]).bytes()).unwrap();
    let error = gguf.matrix("q", 1, 256).err().map(|e| e.to_string()).unwrap();
    assert!(error.contains("IQ4_NL"), "{error}");
}

#[test]
fn overlapping_and_misaligned_tensors_are_refused() {
    let bytes = sample().bytes();
    let at = bytes.windows(9).position(|w| w == b"\x01\0\0\0\0\0\0\0w").unwrap() + 9 + 4 + 16 + 4; // offset of "w"
    let with = |offset: u64| {
        let mut bytes = bytes.clone();
        bytes[at..at + 8].copy_from_slice(&offset.to_le_bytes());
        refused(&bytes).2
    };
    assert!(with(0).contains("inside the tensor before"));
    assert!(with(33).contains("not a multiple"));
    assert!(with(u64::MAX - 31).contains("past the end"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let mut bytes = sample().bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cut.index(4) == 0 {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(gguf) = open(&bytes) {
            use_all(&gguf);
        }
    }
}
