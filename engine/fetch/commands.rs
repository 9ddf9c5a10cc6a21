//! `dreamseed pull` and `dreamseed models`.

use super::{Progress, State, Store};
use crate::config::Config;
use crate::manifest::{Model, Profile};
use crate::{Error, Result, doctor};
use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::HumanBytes;
use serde::Serialize;
use std::io::Write;

/// Arguments of `pull`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PullArgs {
    /// Models or profiles; the profile in use where none is named
    #[arg(value_name = "ID|PROFILE")]
    pub names: Vec<String>,
    /// Read and sum again what is already there
    #[arg(long)]
    pub verify: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `models`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ListArgs {
    /// Models or profiles; all models where none is named
    #[arg(value_name = "ID|PROFILE")]
    pub names: Vec<String>,
    /// Read and sum what is there
    #[arg(long)]
    pub verify: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// One model as `models` and `pull` tell of it.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    alias: &'a [String],
    name: &'a str,
    role: crate::manifest::Role,
    tier: Option<crate::router::Tier>,
    format: crate::manifest::Format,
    /// Size on disk; null where it is not known before the download.
    bytes: Option<u64>,
    memory_mb: u64,
    licence: &'a str,
    licence_url: &'a str,
    notice: &'a str,
    /// The project itself downloaded, summed and ran it.
    verified_by_project: bool,
    #[serde(flatten)]
    state: State,
    path: std::path::PathBuf,
}

fn row<'a>(store: &Store, model: &'a Model, state: State) -> Row<'a> {
    Row {
        id: &model.id,
        alias: &model.alias,
        name: &model.name,
        role: model.role,
        tier: model.tier,
        format: model.format,
        bytes: model.bytes(),
        memory_mb: model.memory_mb,
        licence: &model.licence,
        licence_url: &model.licence_url,
        notice: &model.notice,
        verified_by_project: model.verified,
        state,
        path: store.folder(model),
    }
}

/// The profile in use: the one configured, or the one for this machine.
pub(crate) fn profile<'a>(config: &Config, store: &'a Store) -> Result<&'a Profile> {
    match config.profile.as_str() {
        "auto" => {
            let gpu = doctor::gpu(config);
            Ok(store.manifest().profile_for(gpu.as_ref().map(|g| (g.name.as_str(), g.memory))))
        }
        id => store.manifest().profile(id),
    }
}

/// The models of all `names`, each once.
fn select<'a>(store: &'a Store, names: &[String]) -> Result<Vec<&'a Model>> {
    let mut models: Vec<&Model> = Vec::new();
    for name in names {
        for model in store.manifest().select(name)? {
            if !models.iter().any(|m| m.id == model.id) {
                models.push(model);
            }
        }
    }
    Ok(models)
}

/// Fetches what `args` names. Progress goes to stderr, the outcome to `out`.
pub fn pull(config: &Config, store: &Store, args: &PullArgs, out: &mut dyn Write) -> Result<()> {
    let names = if args.names.is_empty() { vec![profile(config, store)?.id.clone()] } else { args.names.clone() };
    let models = select(store, &names)?;
    let progress = Progress::auto();
    if args.verify {
        for model in &models {
            if let State::Corrupt { file, seen, wanted } = store.verify(model, &progress)? {
                let path = store.folder(model).join(&file);
                progress.note(&format!("{}/{file} is not right: {seen}, wanted {wanted}; fetching it again", model.id));
                std::fs::remove_file(&path).map_err(|source| Error::Io { path, source })?;
            }
        }
    }
    store.ensure_all(&models, &progress)?;
    store.tidy();
    if args.json {
        let rows: Vec<_> = models.iter().map(|m| row(store, m, store.state(m))).collect();
        return json(out, &rows);
    }
    let size = models.iter().map(|m| size_here(store, m)).sum();
    let all = models.iter().all(|m| store.state(m) == State::Present { verified: true });
    let checked =
        if all { ", checksums right" } else { "; not every file has a checksum to compare with, see `dreamseed models`" };
    let path = store.home().join("models");
    print(out, &format!("{}: {} in {}{checked}\n", names.join(" "), HumanBytes(size), path.display()))
}

/// Prints the models that `args` names with size, licence and checksum state.
pub fn list(config: &Config, store: &Store, args: &ListArgs, out: &mut dyn Write) -> Result<()> {
    let all = args.names.is_empty();
    let models = if all { store.manifest().models.iter().collect() } else { select(store, &args.names)? };
    let mut rows = Vec::new();
    for model in models {
        let state = if args.verify { store.verify(model, &Progress::auto())? } else { store.state(model) };
        rows.push(row(store, model, state));
    }
    if args.json {
        return json(out, &rows);
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["model", "role", "size", "memory", "licence", "state"]);
    for r in &rows {
        let role = r.tier.map_or(format!("{:?}", r.role), |t| format!("{:?} {}", r.role, t.name())).to_lowercase();
        let size = r.bytes.map_or("on download".into(), |n| HumanBytes(n).to_string());
        let memory =
            if r.memory_mb < 1000 { format!("{} MB", r.memory_mb) } else { format!("{:.1} GB", r.memory_mb as f64 / 1e3) };
        let right = |s: String| Cell::new(s).set_alignment(CellAlignment::Right);
        let cells = [Cell::new(r.id), Cell::new(role), right(size), right(memory), Cell::new(r.licence), Cell::new(words(r))];
        table.add_row(cells);
    }
    print(out, &format!("{table}\n"))?;
    if all {
        let active = &profile(config, store)?.id;
        for p in &store.manifest().profiles {
            let mark = if p.id == *active { " (in use here)" } else { "" };
            print(out, &format!("profile {}{mark}: {}\n  {}\n", p.id, p.about, p.models.join(" ")))?;
        }
    } else {
        for r in &rows {
            print(out, &format!("{}: {}\n  {} ({})\n  {}\n", r.id, r.name, r.notice, r.licence, r.licence_url))?;
        }
    }
    print(out, &format!("models are kept in {}; get one with `dreamseed pull ID`\n", store.home().join("models").display()))
}

/// A model's state for people.
fn words(row: &Row<'_>) -> String {
    let state = match &row.state {
        State::Absent => "not here".into(),
        State::Partial { bytes } => format!("partly here ({})", HumanBytes(*bytes)),
        State::Present { verified: true } => "here, checksum right".into(),
        State::Present { verified: false } => "here, not checked (run with --verify)".into(),
        State::Corrupt { file, seen, wanted } => format!("{file} is wrong: {seen}, wanted {wanted}; pull it again"),
    };
    if row.verified_by_project { state } else { format!("{state}; not tried by the project") }
}

/// Bytes of a model on this disk.
fn size_here(store: &Store, model: &Model) -> u64 {
    let folder = store.folder(model);
    model.files.iter().filter_map(|f| std::fs::metadata(folder.join(&f.path)).ok()).map(|m| m.len()).sum()
}

fn json(out: &mut dyn Write, rows: &[Row<'_>]) -> Result<()> {
    let text = serde_json::to_string_pretty(rows).map_err(|e| Error::Internal(e.to_string()))?;
    print(out, &format!("{text}\n"))
}

/// A reader that has gone away (`| head`) ends the program quietly.
fn print(out: &mut dyn Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|source| match source.kind() {
        std::io::ErrorKind::BrokenPipe => Error::Cancelled,
        _ => Error::Io { path: "standard output".into(), source },
    })
}
