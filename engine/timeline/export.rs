//! A timeline as a file for other programs: JSON, CSV or safetensors.

use super::Timeline;
use crate::{Error, Result};
use safetensors::{Dtype, tensor::TensorView};
use std::{
    collections::HashMap,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

/// Writes `timeline` in the format that the name of `path` ends with, and tells which files were written.
///
/// - `.json`: the [`Timeline`] as it is; `null` where there is no value.
/// - `.csv`: a row an instant, `time` and then every column as `name [unit]`, empty where there is no value; the events beside it
///   in `NAME.events.csv` as kind, start, end, label, value.
/// - `.safetensors`: `values` (rows, columns) f32, 0 where there is no value; `mask` (rows, columns) u8, 1 where there is one;
///   metadata `rate`, `duration`, and as JSON `names`, `units` and `events`.
///
/// A file appears whole or not at all; one of that name is replaced.
pub fn export(timeline: &Timeline, path: &Path) -> Result<Vec<PathBuf>> {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    match extension.as_deref() {
        Some("json") => write(path, |out| Ok(serde_json::to_writer(out, timeline)?))?,
        Some("safetensors") => write(path, |out| out.write_all(&tensors(timeline)?))?,
        Some("csv") => {
            let events = path.with_extension("events.csv");
            write(path, |out| table(timeline, out))?;
            write(&events, |out| event_table(timeline, out))?;
            return Ok(vec![path.into(), events]);
        }
        other => {
            return Err(Error::Usage(format!(
                "{}: features are written as .json, .csv or .safetensors, not as {}",
                path.display(),
                other.map_or("a file without an ending".into(), |o| format!(".{o}"))
            )));
        }
    }
    Ok(vec![path.into()])
}

/// Writes to a temporary file beside `path`, then puts it in place.
fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let put = || {
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less the umask, as any new file
        let mut file = builder.prefix(".features-").tempfile_in(folder)?;
        let mut out = BufWriter::new(&mut file);
        content(&mut out)?;
        out.flush()?;
        drop(out);
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    };
    put().map_err(|source| Error::Io { path: path.into(), source })
}

fn table(timeline: &Timeline, out: &mut dyn Write) -> std::io::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    let names = timeline.columns.iter().map(|c| format!("{} [{}]", c.name, c.unit));
    csv.write_record(std::iter::once("time".into()).chain(names))?;
    for row in 0..timeline.rows {
        let value = |v: Option<f32>| v.map(|v| v.to_string()).unwrap_or_default();
        let values = timeline.columns.iter().map(|c| value(c.values.get(row).copied().flatten()));
        csv.write_record(std::iter::once(time(row as f64 / timeline.rate)).chain(values))?;
    }
    csv.flush()
}

fn event_table(timeline: &Timeline, out: &mut dyn Write) -> std::io::Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(["kind", "start", "end", "label", "value"])?;
    for e in &timeline.events {
        let kind = serde_json::to_value(e.kind)?;
        csv.write_record([kind.as_str().unwrap_or_default(), &time(e.start), &time(e.end), &e.label, &e.value.to_string()])?;
    }
    csv.flush()
}

/// Seconds to the microsecond, without the digits that binary fractions leave.
fn time(t: f64) -> String {
    ((t * 1e6).round() / 1e6).to_string()
}

fn tensors(timeline: &Timeline) -> std::io::Result<Vec<u8>> {
    let cells = timeline.rows * timeline.columns.len();
    let (mut values, mut mask) = (Vec::with_capacity(4 * cells), Vec::with_capacity(cells));
    for row in 0..timeline.rows {
        for column in &timeline.columns {
            let value = column.values.get(row).copied().flatten();
            values.extend(value.unwrap_or(0.0).to_le_bytes());
            mask.push(u8::from(value.is_some()));
        }
    }
    let list = |get: fn(&super::Column) -> &str| serde_json::to_string(&timeline.columns.iter().map(get).collect::<Vec<_>>());
    let metadata = HashMap::from([
        ("rate".to_string(), timeline.rate.to_string()),
        ("duration".to_string(), timeline.duration.to_string()),
        ("names".to_string(), list(|c| &c.name)?),
        ("units".to_string(), list(|c| &c.unit)?),
        ("events".to_string(), serde_json::to_string(&timeline.events)?),
    ]);
    let shape = vec![timeline.rows, timeline.columns.len()];
    let view = |dtype, data| TensorView::new(dtype, shape.clone(), data).map_err(std::io::Error::other);
    let views = [("values", view(Dtype::F32, &values)?), ("mask", view(Dtype::U8, &mask)?)];
    safetensors::serialize(views, Some(metadata)).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};

    fn timeline() -> Timeline {
        let column = |name: &str, unit: &str, values: &[Option<f32>]| Column {
            name: name.into(),
            unit: unit.into(),
            values: values.into(),
        };
        Timeline {
            rate: 25.0,
            rows: 3,
            duration: 0.12,
            columns: vec![
                column("prosody.f0", "Hz", &[Some(220.5), None, Some(0.1)]),
                column("face.happy", "1", &[None, None, Some(1.0)]),
            ],
            events: vec![Event { kind: EventKind::PitchAccent, start: 0.04, end: 0.08, label: "a, \"b\"".into(), value: 2.5 }],
        }
    }

    #[test]
    fn every_format_holds_everything() {
        let folder = tempfile::tempdir().unwrap();
        let t = timeline();
        let at = |name: &str| folder.path().join(name);
        export(&t, &at("a.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Timeline>(&std::fs::read(at("a.json")).unwrap()).unwrap(), t);

        assert_eq!(export(&t, &at("a.CSV")).unwrap(), [at("a.CSV"), at("a.events.csv")]);
        let text = std::fs::read_to_string(at("a.CSV")).unwrap();
        assert_eq!(text, "time,prosody.f0 [Hz],face.happy [1]\n0,220.5,\n0.04,,\n0.08,0.1,1\n");
        let text = std::fs::read_to_string(at("a.events.csv")).unwrap();
        assert_eq!(text, "kind,start,end,label,value\npitch_accent,0.04,0.08,\"a, \"\"b\"\"\",2.5\n");

        export(&t, &at("a.safetensors")).unwrap();
        let bytes = std::fs::read(at("a.safetensors")).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap();
        assert_eq!(metadata["names"], r#"["prosody.f0","face.happy"]"#);
        assert_eq!(serde_json::from_str::<Vec<Event>>(&metadata["events"]).unwrap(), t.events);
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("values").unwrap().shape(), [3, 2]);
        assert_eq!(file.tensor("mask").unwrap().data(), [1, 0, 0, 0, 1, 1]);
        assert_eq!(file.tensor("values").unwrap().data()[..4], 220.5f32.to_le_bytes());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4, "nothing temporary is left");
    }

    #[test]
    fn what_cannot_be_written_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(export(&timeline(), &folder.path().join("a.xls")), Err(Error::Usage(m)) if m.contains(".xls")));
        assert!(matches!(export(&timeline(), &folder.path().join("a")), Err(Error::Usage(_))));
        assert!(matches!(export(&timeline(), &folder.path().join("none/a.json")), Err(Error::Io { .. })));
        export(&Timeline::default(), &folder.path().join("empty.safetensors")).unwrap();
        export(&Timeline { rate: 25.0, ..Timeline::default() }, &folder.path().join("empty.csv")).unwrap();
    }
}
