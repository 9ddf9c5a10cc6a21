//! `dreamseed see`: which labels fit pictures or the shots of a video, and where a video is cut.

use std::path::PathBuf;

use clap::Args;
use dreamseed_models::vision::{Session, SigLip};
use serde::Serialize;

use super::{MAX_FPS, emit, emit_json, engine, limits, note, open_folder};
use crate::config::Config;
use crate::extract::view;
use crate::scene::Watch;
use crate::{Error, Result, media};

/// Most labels of a call.
const MAX_LABELS: usize = 1000;

/// Arguments of `see`.
#[derive(Clone, Debug, Args)]
pub struct SeeArgs {
    /// A picture, a video, or a folder of pictures
    pub file: PathBuf,
    /// What may be seen, with commas between: probabilities of each (needs a vision model)
    #[arg(long, value_name = "A,B,C")]
    pub labels: Option<String>,
    /// What a label is said in; {} is the label
    #[arg(long, value_name = "TEXT", default_value = "This is a photo of {}.")]
    pub template: String,
    /// A SigLIP model: an id, or a folder as transformers writes it (default: the profile's)
    #[arg(long, value_name = "ID|DIR")]
    pub model: Option<String>,
    /// Pictures a second that are looked at for cuts (folder: their rate)
    #[arg(long, value_name = "N")]
    pub fps: Option<f64>,
    /// Pictures a second that are compared with the labels
    #[arg(long, value_name = "N", default_value_t = crate::scene::RATE)]
    pub rate: f64,
    /// A JSON object a picture, then one a shot
    #[arg(long)]
    pub json: bool,
}

/// How a label fits.
#[derive(Clone, Debug, Serialize)]
struct Fit {
    label: String,
    probability: f32, // by itself
    share: f32,       // where exactly one label is right
}

/// One line of `see --json`: a picture, or (with its end) a shot.
#[derive(Serialize)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shot: Option<[f64; 2]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<Fit>,
}

/// The labels as the model reads them.
struct Labels<'a> {
    model: &'a SigLip,
    names: Vec<String>,
    texts: Vec<Vec<f32>>, // embeddings
}

pub(super) fn run(config: Config, args: SeeArgs) -> Result<()> {
    let names = args.labels.as_deref().map(parse).transpose()?;
    if !(args.rate > 0.0 && args.rate <= MAX_FPS) {
        return Err(Error::Usage(format!("--rate {}: above 0 to {MAX_FPS} pictures a second are allowed", args.rate)));
    }
    if !args.template.contains("{}") {
        return Err(Error::Usage(format!("--template {:?} has no {{}} where the label goes", args.template)));
    }
    let engine = engine(config)?;
    let model = names.as_ref().map(|_| engine.vision(args.model.as_deref())).transpose()?;
    let labels = match (&model, names) {
        (Some(model), Some(names)) => {
            let problem = "labels need a model with words (SigLIP or SigLIP 2); DINOv2 knows pictures alone";
            let model = model.siglip().ok_or_else(|| Error::Usage(problem.into()))?;
            let said: Vec<String> = names.iter().map(|n| args.template.replace("{}", n)).collect();
            let texts = model.embed_texts(engine.pool(), &said.iter().map(String::as_str).collect::<Vec<_>>())?;
            Some(Labels { model, names, texts })
        }
        _ => None,
    };
    let limits = limits(&engine, args.fps)?;
    let clip = if args.file.is_dir() { open_folder(&args.file, args.fps, &limits)? } else { media::open(&args.file, &limits)? };
    if clip.frames.is_empty() {
        return Err(Error::Media { path: args.file, problem: "no pictures in it".into() });
    }
    let (mut watch, mut session, mut seen) = (Watch::new(None), Session::default(), Vec::<(f64, Vec<Fit>)>::new());
    for frame in &clip.frames {
        let image = view(frame)?;
        watch.see(engine.pool(), &image, frame.t)?;
        let due = seen.last().is_none_or(|s| frame.t - s.0 >= 1.0 / args.rate - 1e-6);
        if let (Some(labels), Some(model), true) = (&labels, &model, due) {
            let fits = labels.fits(&model.embed(engine.pool(), &image, &mut session)?);
            show(&args, Line { t: Some(frame.t), shot: None, labels: fits.clone() })?;
            seen.push((frame.t, fits));
        }
    }
    if clip.frames.len() == 1 {
        return if labels.is_some() { Ok(()) } else { Err(Error::Usage("a single picture needs --labels".into())) };
    }
    let shots = watch.finish().shots(clip.frames.last().map_or(0.0, |f| f.t));
    for shot in &shots {
        let within: Vec<&Vec<Fit>> = seen.iter().filter(|s| s.0 >= shot[0] - 1e-6 && s.0 <= shot[1]).map(|s| &s.1).collect();
        show(&args, Line { t: None, shot: Some(*shot), labels: mean(&within) })?;
    }
    if !args.json {
        let (shots, pictures) = (shots.len(), clip.frames.len());
        note(&format!("{shots} {} in {pictures} pictures", if shots == 1 { "shot" } else { "shots" }));
    }
    Ok(())
}

/// The labels between commas.
fn parse(text: &str) -> Result<Vec<String>> {
    let names: Vec<String> = text.split(',').map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).collect();
    match names.len() {
        1..=MAX_LABELS => Ok(names),
        n => Err(Error::Usage(format!("--labels names {n} labels: 1 to {MAX_LABELS}, with commas between, are allowed"))),
    }
}

impl Labels<'_> {
    fn fits(&self, picture: &[f32]) -> Vec<Fit> {
        let (each, shares) = (self.model.probabilities(picture, &self.texts), self.model.shares(picture, &self.texts));
        let fits = self.names.iter().zip(each).zip(shares);
        fits.map(|((label, probability), share)| Fit { label: label.clone(), probability, share }).collect()
    }
}

/// The mean over the pictures of a shot.
fn mean(pictures: &[&Vec<Fit>]) -> Vec<Fit> {
    let Some(first) = pictures.first() else { return Vec::new() };
    let over = |i: usize, value: fn(&Fit) -> f32| pictures.iter().map(|p| value(&p[i])).sum::<f32>() / pictures.len() as f32;
    let fit = |(i, f): (usize, &Fit)| {
        let (probability, share) = (over(i, |f| f.probability), over(i, |f| f.share));
        Fit { label: f.label.clone(), probability, share }
    };
    first.iter().enumerate().map(fit).collect()
}

fn show(args: &SeeArgs, line: Line) -> Result<()> {
    if args.json {
        return emit_json(&line);
    }
    let when = match (line.t, line.shot) {
        (_, Some([start, end])) => format!("{start:7.2} to {end:.2} s"),
        (t, _) => format!("{:7.2} s", t.unwrap_or(0.0)),
    };
    let mut labels = line.labels;
    labels.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    let told: Vec<String> =
        labels.iter().map(|f| format!("{} {:.3} ({:.0}%)", f.label, f.probability, f.share * 100.0)).collect();
    emit(format!("{when}  {}", told.join(", ")).trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_stands_between_commas() {
        assert_eq!(parse(" dancing, standing still ,,").unwrap(), ["dancing", "standing still"]);
        assert!(matches!(parse(" , "), Err(Error::Usage(m)) if m.contains("names 0 labels")));
        assert!(parse(&"a,".repeat(1001)).is_err());
    }

    #[test]
    fn a_shot_is_the_mean_of_its_pictures() {
        let fit = |probability, share| vec![Fit { label: "a".into(), probability, share }];
        let (one, two) = (fit(0.2, 0.5), fit(0.6, 0.7));
        let seen = mean(&[&one, &two]);
        assert!((seen[0].probability - 0.4).abs() < 1e-6 && (seen[0].share - 0.6).abs() < 1e-6);
        assert!(mean(&[]).is_empty());
    }
}
