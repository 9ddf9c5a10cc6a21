//! `dreamseed plan`: what GPUs can hold and how fast they should decode.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::{emit, emit_json};
use crate::config::{Cache, Config};
use crate::fetch::{State, Store};
use crate::manifest::Role;
use crate::plan::{
    self, Draft, Plan, Request, WANTED,
    fit::{Fitted, fit},
    gpu,
    memory::{Wish, check},
    shape::{Mix, Shape},
    split::Place,
};
use crate::{Error, Result};

/// A model of each tier, where none is named.
const TIERS: [&str; 4] = ["qwen3-8b-q4_k_m", "qwen3-14b-q4_k_m", "qwen3-32b-q4_k_m", "llama3.3-70b-q4_k_m"];
/// Most GPUs that a model is divided over.
const MAX_GPUS: usize = 16;
/// Most guesses of a verification.
const MAX_GUESSES: u64 = 64;
/// Most sequences at once.
const MAX_SEQUENCES: u64 = 4096;

/// Arguments of `plan`.
#[derive(Clone, Debug, Args)]
pub struct PlanArgs {
    /// GPUs, each planned alone; those that the product is for where none is named
    #[arg(long, value_name = "GPU,..", value_delimiter = ',', conflicts_with = "gpus")]
    pub gpu: Vec<String>,
    /// GPUs that hold each model together, its layers divided over them
    #[arg(long, value_name = "GPU,..", value_delimiter = ',')]
    pub gpus: Vec<String>,
    /// Free memory of each GPU in GiB, where it is less than all
    #[arg(long, value_name = "GIB,..", value_delimiter = ',')]
    pub free: Vec<f64>,
    /// GGUF files, folders with a config.json, models of weights.toml, or shapes with a type (llama3-8b-q4_k_m); the LLMs of
    /// --profile where none is named, or one of each tier
    #[arg(long, value_name = "ID|FILE,..", value_delimiter = ',')]
    pub model: Vec<String>,
    /// Type of the weights, where a config.json does not tell: f16, q8_0, q4_0, q4_k_m, q3_k_m or q2_k
    #[arg(long, value_name = "TYPE", default_value = "q4_k_m")]
    pub weights_as: String,
    /// Positions of each sequence: prompt and answer
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub context: u64,
    /// Sequences at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub sequences: u64,
    /// Keys and values in f16 or q8_0; as llm.cache says where it is left out
    #[arg(long, value_name = "TYPE", value_enum)]
    pub cache: Option<Cache>,
    /// A small model that guesses tokens ahead, named as for --model
    #[arg(long, value_name = "ID|FILE")]
    pub draft: Option<String>,
    /// Probability that a guess is accepted, 0 to 1
    #[arg(long, value_name = "P", default_value_t = 0.7, requires = "draft")]
    pub acceptance: f64,
    /// Guesses a verification
    #[arg(long, value_name = "N", default_value_t = 4, requires = "draft")]
    pub guesses: u64,
    /// Also list the published figures that the speeds come from, and the error against each
    #[arg(long)]
    pub figures: bool,
    /// Print as JSON
    #[arg(long)]
    pub json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    note: &'a str,
    wanted: [f64; 2],
    costs: plan::predict::Costs,
    fitted_error: Mean,
    held_error: Mean,
    plans: &'a [Plan],
    #[serde(skip_serializing_if = "Option::is_none")]
    figures: Option<&'a [plan::fit::Checked]>,
}

/// Of absolute relative errors.
#[derive(Serialize)]
struct Mean {
    mean: f64,
    worst: f64,
    figures: usize,
}

const NOTE: &str = "Predicted, not measured: dreamseed has not run on a real GPU yet.";

pub(super) fn run(config: &Config, args: &PlanArgs) -> Result<()> {
    let wish = checked(config, args)?;
    let places = places(args)?;
    let store = Store::open(config)?;
    let mix = Mix::named(&args.weights_as)?;
    let shapes = names(config, args, &store)?.iter().map(|n| shape(&store, n, mix)).collect::<Result<Vec<_>>>()?;
    let draft = match &args.draft {
        Some(name) => Some(Draft { shape: shape(&store, name, mix)?, acceptance: args.acceptance, guesses: args.guesses }),
        None => None,
    };
    if let Some(d) = &draft {
        check(&d.shape.config, wish).map_err(|e| Error::Usage(format!("--draft {}: {e}", d.shape.name)))?;
    }
    let fitted = fit()?;
    let plans: Vec<Plan> = places
        .iter()
        .flat_map(|places| shapes.iter().map(move |shape| (places, shape)))
        .map(|(places, shape)| {
            // what speaks another language cannot guess
            let draft = draft.as_ref().filter(|d| d.shape.config.vocab.abs_diff(shape.config.vocab) < 1024);
            plan::plan(&fitted.costs, &Request { places, shape, wish, draft })
        })
        .collect();
    if let Some(d) = &draft
        && plans.iter().all(|p| p.speculative.is_none())
    {
        let problem = match wish.sequences {
            1 => format!("{} has a vocabulary of its own: a draft model has that of its model", d.shape.name),
            _ => "--draft: guesses are planned for one sequence; leave out --sequences".into(),
        };
        return Err(Error::Usage(problem));
    }
    if args.json { json(&fitted, &plans, args.figures) } else { table(&fitted, &plans, args) }
}

/// What is asked for, where it is within bounds.
fn checked(config: &Config, args: &PlanArgs) -> Result<Wish> {
    let cache = args.cache.unwrap_or(config.llm.cache);
    let problem = if args.context == 0 {
        "--context 0: at least 1 position is needed".to_owned()
    } else if !(1..=MAX_SEQUENCES).contains(&args.sequences) {
        format!("--sequences {}: 1 to {MAX_SEQUENCES} are allowed", args.sequences)
    } else if !(0.0..=1.0).contains(&args.acceptance) {
        format!("--acceptance {}: a probability of 0 to 1 is needed", args.acceptance)
    } else if !(1..=MAX_GUESSES).contains(&args.guesses) {
        format!("--guesses {}: 1 to {MAX_GUESSES} are allowed", args.guesses)
    } else if let Some(gib) = args.free.iter().find(|g| !(0.0..=4096.0).contains(*g)) {
        format!("--free {gib}: 0 to 4096 GiB are allowed")
    } else if cache == Cache::F32 {
        "keys and values in f32 are for the CPU; on a GPU they are in f16 or q8_0: give one as --cache".to_owned()
    } else {
        return Ok(Wish { sequences: args.sequences, positions: args.context, cache });
    };
    Err(Error::Usage(problem))
}

/// The machines that are planned, and the GPUs of each.
fn places(args: &PlanArgs) -> Result<Vec<Vec<Place>>> {
    let found = |names: &[String]| names.iter().map(|n| gpu::find(n)).collect::<Result<Vec<_>>>();
    let gpus = match (args.gpu.is_empty(), args.gpus.is_empty()) {
        (_, false) => found(&args.gpus)?,
        (false, _) => found(&args.gpu)?,
        _ => gpu::all().filter(|g| g.product).collect(),
    };
    if args.gpus.len() > MAX_GPUS {
        return Err(Error::Usage(format!("--gpus: {} GPUs; up to {MAX_GPUS} are allowed", args.gpus.len())));
    }
    if !args.free.is_empty() && args.free.len() != gpus.len() {
        let (n, m) = (args.free.len(), gpus.len());
        return Err(Error::Usage(format!(
            "--free tells the free memory of {n} GPUs, and there are {m}: one number for each is needed"
        )));
    }
    let free = |i: usize, gpu: &gpu::Gpu| args.free.get(i).map_or(gpu.memory, |gib| (gib * (1u64 << 30) as f64) as u64);
    let places = gpus.into_iter().enumerate().map(|(i, gpu)| Place { free: free(i, &gpu), gpu });
    Ok(if args.gpus.is_empty() { places.map(|p| vec![p]).collect() } else { vec![places.collect()] })
}

/// The models that are planned: those named, the LLMs of a profile without the drafts, or one of each tier.
fn names(config: &Config, args: &PlanArgs, store: &Store) -> Result<Vec<String>> {
    if !args.model.is_empty() {
        return Ok(args.model.clone());
    }
    if config.profile == "auto" {
        return Ok(TIERS.map(str::to_owned).to_vec());
    }
    let manifest = store.manifest();
    let models = manifest.in_profile(manifest.profile(&config.profile)?, Role::Llm);
    let drafts: BTreeSet<&str> = models.iter().filter_map(|m| m.draft.as_deref()).collect();
    let names: Vec<_> = models.iter().filter(|m| !drafts.contains(m.id.as_str())).map(|m| m.id.clone()).collect();
    if names.is_empty() { Err(Error::Usage(format!("profile {} names no LLM", config.profile))) } else { Ok(names) }
}

/// A model by a path, by its id in weights.toml (its file where it is here), or by its shape's name.
fn shape(store: &Store, name: &str, mix: Mix) -> Result<Shape> {
    let path = Path::new(name);
    if path.exists() {
        return Shape::open(path, mix);
    }
    let file =
        store.manifest().find(name).ok().filter(|m| m.role == Role::Llm && matches!(store.state(m), State::Present { .. }));
    match file.and_then(|m| Some(store.folder(m).join(&m.files.iter().find(|f| f.path.ends_with(".gguf"))?.path))) {
        Some(file) => Shape::open(&file, mix),
        None if path.extension().is_some_and(|e| e == "gguf" || e == "json") || name.contains('/') => {
            Err(Error::Io { path: path.into(), source: std::io::ErrorKind::NotFound.into() })
        }
        None => Shape::published(name),
    }
}

fn json(fitted: &Fitted, plans: &[Plan], figures: bool) -> Result<()> {
    let error = |held| {
        let (mean, worst, figures) = fitted.errors(held);
        Mean { mean, worst, figures }
    };
    emit_json(&Report {
        note: NOTE,
        wanted: WANTED,
        costs: fitted.costs,
        fitted_error: error(false),
        held_error: error(true),
        plans,
        figures: figures.then_some(fitted.figures.as_slice()),
    })
}

fn table(fitted: &Fitted, plans: &[Plan], args: &PlanArgs) -> Result<()> {
    let right = |s: String| Cell::new(s).set_alignment(CellAlignment::Right);
    let gb = |bytes: u64| right(format!("{:.2}", bytes as f64 / 1e9));
    let range = |[low, high]: [f64; 2]| format!("{low:.0}-{high:.0}");
    let with = plans.iter().any(|p| p.speculative.is_some());
    let mut header = vec!["GPU", "model", "tier", "weights", "KV", "a token", "nodes", "longest", "tokens/s"];
    header.extend(with.then_some("guessing"));
    header.push(">= 120/s");
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for p in plans {
        let speed = |s: Option<[f64; 2]>| right(if p.fits() { s.map_or("-".into(), range) } else { "-".into() });
        let longest = p.most_positions.filter(|_| p.fits()).map_or("-".into(), |n| n.to_string());
        let mut cells = vec![Cell::new(&p.gpu), Cell::new(&p.model), Cell::new(p.tier.name())];
        cells.extend([gb(p.weights), gb(p.kv), gb(p.bytes_per_token), right(p.launches.to_string()), right(longest)]);
        cells.push(speed(Some(p.tokens_per_second)));
        cells.extend(with.then(|| speed(p.speculative)));
        let verdict = match (p.fits(), p.reaches()) {
            (false, _) => "does not fit",
            (true, [true, _]) => "yes",
            (true, [false, true]) => "perhaps",
            (true, _) => "no",
        };
        cells.push(Cell::new(verdict));
        table.add_row(cells);
    }
    emit(&format!("{}\n", table.trim_fmt()))?;
    let draft = args.draft.as_ref().map_or(String::new(), |d| {
        let (guesses, acceptance) = (args.guesses, args.acceptance);
        format!("; guessing: {d} guesses {guesses} tokens, each accepted with probability {acceptance}")
    });
    emit(&format!(
        "{} sequence(s) of {} positions. weights, KV and a token (the weights that it reads) in GB; nodes of a pass; longest context\nthat fits; tokens/s of each sequence at half its context{draft}.",
        args.sequences, args.context
    ))?;
    details(plans)?;
    summary(plans)?;
    emit(&constants(fitted))?;
    if args.figures { figures(fitted) } else { Ok(()) }
}

/// What did not fit, and what lies where.
fn details(plans: &[Plan]) -> Result<()> {
    for p in plans {
        if let Some(problem) = &p.problem {
            emit(&format!("{} on {}: {problem}", p.model, p.gpu))?;
        }
        for d in p.devices.iter().filter(|_| p.devices.len() > 1) {
            let bytes = (d.need.total() + d.draft) as f64 / 1e9;
            let [from, to] = d.layers;
            emit(&format!("{} on {}: layers {from}..{to}, {bytes:.2} of {:.2} GB", p.model, d.gpu, d.free as f64 / 1e9))?;
        }
        if let Some(t) = &p.tensor {
            let ([low, high], bytes) = (t.tokens_per_second, t.need as f64 / 1e9);
            let way = if p.way == plan::Way::Tensor { "auto takes it where NCCL is there" } else { "auto takes layers" };
            emit(&format!(
                "{} cut over {} GPUs: {low:.0}-{high:.0} tokens/s, {bytes:.2} GB each, {:.0} us for each of two sums a layer; {way}; has run in an emulator alone",
                p.model, t.parts, t.sum_us
            ))?;
        }
    }
    Ok(())
}

/// Of each machine the largest model that fits, and the largest that is fast enough.
fn summary(plans: &[Plan]) -> Result<()> {
    let largest = |of: &[&Plan]| of.iter().max_by_key(|p| p.parameters).map_or("none".to_owned(), |p| p.model.clone());
    for machine in plans.chunk_by(|a, b| a.gpu == b.gpu).filter(|m| m.len() > 1) {
        let of = |wanted: &dyn Fn(&Plan) -> bool| largest(&machine.iter().filter(|p| wanted(p)).collect::<Vec<_>>());
        let (fits, sure, perhaps) = (of(&|p| p.fits()), of(&|p| p.reaches()[0]), of(&|p| p.reaches()[1]));
        let perhaps = if perhaps == sure { String::new() } else { format!(" (perhaps {perhaps})") };
        emit(&format!(
            "{}: the largest that fits is {fits}, the largest of 120 tokens/s or more {sure}{perhaps}",
            machine[0].gpu
        ))?;
    }
    Ok(())
}

/// Where the speeds come from.
fn constants(fitted: &Fitted) -> String {
    let c = &fitted.costs;
    let ((mean, worst, n), (held, held_worst, held_n)) = (fitted.errors(false), fitted.errors(true));
    format!(
        "\n{NOTE}\nFitted to {n} published figures of llama.cpp (mean error {:.1}%, at most {:.0}%); against {held_n} that were held out {:.1}%, at most {:.0}%.\n{:.0}% of the bandwidth of GDDR and {:.0}% of HBM, {:.2} us a node, {:.0} us a pass, {:.0}% more for each row of a batch.\nThe lower speed is with llama.cpp's number of nodes, the upper with this engine's. `--figures` lists the figures.",
        100.0 * mean,
        100.0 * worst,
        100.0 * held,
        100.0 * held_worst,
        100.0 * c.gddr_share,
        100.0 * c.hbm_share,
        c.node_us,
        c.host_us,
        100.0 * c.row,
    )
}

fn figures(fitted: &Fitted) -> Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["GPU", "model", "use", "published", "by the fit", "error", "source"]);
    let right = |s: String| Cell::new(s).set_alignment(CellAlignment::Right);
    for f in &fitted.figures {
        let used = if f.held { "held out" } else { "fitted" };
        let (published, predicted) = (format!("{:.1}", f.tokens_per_second), format!("{:.1}", f.predicted));
        let mut cells = vec![Cell::new(&f.gpu), Cell::new(&f.model), Cell::new(used)];
        cells.extend([right(published), right(predicted), right(format!("{:+.1}%", 100.0 * f.error())), Cell::new(&f.source)]);
        table.add_row(cells);
    }
    emit(&format!("\n{}", table.trim_fmt()))
}
