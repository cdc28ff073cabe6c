use rtmp::amf0::{AmfError, DEPTH_MAX, ELEMENTS_MAX, Reader, Value};

fn read(bytes: &[u8]) -> Result<Vec<Value>, AmfError> {
    let (mut reader, mut values) = (Reader::new(bytes), Vec::new());
    while let Some(value) = reader.read()? {
        values.push(value);
    }
    Ok(values)
}

fn samples() -> Vec<Value> {
    let named = |name: &str, value| (name.to_owned(), value);
    vec![
        Value::Number(-0.5),
        Value::Number(f64::MAX),
        Value::Boolean(true),
        Value::Boolean(false),
        Value::String(String::new()),
        Value::from("Grüße"),
        Value::String("x".repeat(65_535)),
        Value::String("long".repeat(20_000)),
        Value::object([("app", "live".into()), ("inner", Value::object([("n", 1.0.into())]))]),
        Value::EcmaArray(vec![named("duration", 0.0.into()), named("", Value::Null)]),
        Value::StrictArray(vec!["mp4a".into(), Value::Undefined, Value::StrictArray(vec![])]),
        Value::Date(1_700_000_000_000.0),
        Value::Null,
        Value::Undefined,
    ]
}

#[test]
fn what_is_written_is_read() {
    let mut bytes = Vec::new();
    for value in samples() {
        value.write(&mut bytes);
    }
    assert_eq!(read(&bytes).unwrap(), samples());
}

#[test]
fn every_cut_is_a_cut() {
    for value in
        samples().into_iter().filter(|value| !matches!(value, Value::String(text) if text.len() > 1_000))
    {
        let mut bytes = Vec::new();
        value.write(&mut bytes);
        for cut in 1..bytes.len() {
            assert_eq!(read(&bytes[..cut]), Err(AmfError::Truncated), "{value:?} at {cut}");
        }
    }
}

#[test]
fn rare_markers_are_read() {
    let cases: &[(&[u8], Value)] = &[
        (&[7, 0, 1], Value::Undefined),
        (&[13], Value::Undefined),
        (&[15, 0, 0, 0, 2, b'<', b'>'], "<>".into()),
        (&[16, 0, 1, b'C', 0, 1, b'a', 5, 0, 0, 9], Value::object([("a", Value::Null)])),
        // The count of an ECMA array is a hint.
        (&[8, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 9], Value::EcmaArray(vec![])),
        (&[2, 0, 1, 0xFF], "\u{FFFD}".into()),
        (&[1, 7], Value::Boolean(true)),
    ];
    for (bytes, value) in cases {
        assert_eq!(read(bytes).as_deref(), Ok(std::slice::from_ref(value)), "{bytes:?}");
    }
}

#[test]
fn properties_are_found_by_name() {
    let value = Value::object([("a", 1.0.into()), ("b", "two".into()), ("a", 3.0.into())]);
    assert_eq!(value.get("a").and_then(Value::as_number), Some(1.0));
    assert_eq!(value.get("b").and_then(Value::as_str), Some("two"));
    assert_eq!((value.get("c"), Value::Null.get("a")), (None, None));
}

/// So many containers within each other, closed properly.
fn nested(kind: u8, depth: usize) -> Vec<u8> {
    let (open, close): (&[u8], &[u8]) = match kind {
        3 => (&[3, 0, 1, b'a'], &[0, 0, 9]),
        8 => (&[8, 0, 0, 0, 1, 0, 1, b'a'], &[0, 0, 9]),
        16 => (&[16, 0, 0, 0, 1, b'a'], &[0, 0, 9]),
        _ => (&[10, 0, 0, 0, 1], &[]),
    };
    [open.repeat(depth), vec![5], close.repeat(depth)].concat()
}

#[test]
fn depth_is_limited_in_every_container() {
    for kind in [3, 8, 10, 16] {
        assert!(read(&nested(kind, DEPTH_MAX)).is_ok(), "{kind}");
        for depth in [DEPTH_MAX + 1, 30_000] {
            assert_eq!(read(&nested(kind, depth)), Err(AmfError::Depth), "{kind} {depth}");
        }
    }
}

#[test]
fn elements_are_limited_together() {
    assert_eq!(read(&[5; ELEMENTS_MAX]).map(|values| values.len()), Ok(ELEMENTS_MAX));
    assert_eq!(read(&[5; ELEMENTS_MAX + 1]), Err(AmfError::Elements));
    let many = [&[10, 0, 1, 0, 0][..], &[6; 0x1_0000]].concat();
    assert_eq!(read(&many), Err(AmfError::Elements));
    let wide = [&[3][..], &[0, 0, 5].repeat(100_000), &[0, 0, 9]].concat();
    assert_eq!(read(&wide), Err(AmfError::Elements));
}

#[test]
fn what_is_no_value_is_refused() {
    let cases: &[(&[u8], AmfError)] = &[
        (&[17, 1], AmfError::Amf3),
        (&[4], AmfError::Marker),
        (&[9], AmfError::Marker),
        (&[14], AmfError::Marker),
        (&[18], AmfError::Marker),
        (&[255], AmfError::Marker),
        // Lengths and counts beyond what follows.
        (&[12, 0xFF, 0xFF, 0xFF, 0xFF, 1], AmfError::Truncated),
        (&[10, 0xFF, 0xFF, 0xFF, 0xFF], AmfError::Truncated),
        (&[2, 0xFF, 0xFF, 1], AmfError::Truncated),
    ];
    for (bytes, error) in cases {
        assert_eq!(read(bytes), Err(*error), "{bytes:?}");
    }
}
