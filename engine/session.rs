//! The Rust API: an [`Engine`] holds what is loaded; a coaching session is a stream of events that ends when it is dropped.
//!
//! ```
//! use dreamseed::coach::{Lab, events::Event};
//! use dreamseed::{Engine, demo, lesson::Request};
//!
//! # fn main() -> dreamseed::Result<()> {
//! let engine = Engine::builder().build()?;
//! let clip = demo::open(&engine)?; // or media::open("lesson.wav".as_ref(), &engine.limits())?
//! let mut points = 0;
//! for event in engine.coach(Request::new(Lab::Speech, clip)) {
//!     if let Event::Point(point) = event? {
//!         println!("{:?} {}", point.point.span, point.text);
//!         points += 1;
//!     }
//! }
//! assert!(points > 0);
//! # Ok(())
//! # }
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

mod kept;

use dreamseed_kernels::Pool;
use dreamseed_models::Processor;
use dreamseed_models::face::FaceNets;
use dreamseed_models::pose::Pose;
use dreamseed_models::vision::{Precision, Vision};
#[cfg(feature = "cuda")]
use dreamseed_models::weights::Error as WeightsError;
use dreamseed_models::whisper::{self, Transcript, Whisper};

use crate::config::{Config, Device, Devices};
use crate::extract::{self, Perception, Tracks};
use crate::fetch::{Progress, Store};
use crate::llm::{Llm, Placement, Settings, Speculation};
use crate::manifest::{Model, Role};
use crate::media::{Clip, Limits};
use crate::{Error, Result};

pub use kept::InMemory;
use kept::Kept;

/// The face models; they need the detector.
const FACE: [&str; 3] = ["face-mesh", "face-iris", "face-emotion"];

/// Finds several people.
const FINDER: &str = "movenet-multipose";

struct Inner {
    config: Config,
    store: Store,
    pool: Arc<Pool>,
    models: Kept,
    placement: OnceLock<Placement>, // of models that run on a GPU; it is opened for the first of them
    progress: Progress,
}

/// Loads what is needed when it is first needed, keeps it, and serves any number of callers. Cloning is cheap.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// How an [`Engine`] is made.
#[derive(Default)]
pub struct Builder {
    config: Option<Config>,
    threads: Option<usize>,
    offline: bool,
    home: Option<PathBuf>,
    progress: Option<Progress>,
}

impl Builder {
    /// Starts from this configuration (default: file, environment and built-in values, as the command line does).
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Threads for the kernels.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Never touches the network: a model that is not there is an error.
    pub fn offline(mut self) -> Self {
        self.offline = true;
        self
    }

    /// Folder of the weights.
    pub fn home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }

    /// Told about downloads (default: nobody).
    pub fn progress(mut self, progress: Progress) -> Self {
        self.progress = Some(progress);
        self
    }

    /// An engine. Nothing is loaded or downloaded yet.
    ///
    /// # Errors
    /// A configuration that cannot be read or has a value that is not allowed; [`Error::Device`] where `device = "cuda"` is set and
    /// there is none that can be used, or not each of those that `devices` names.
    pub fn build(self) -> Result<Engine> {
        let mut config = match self.config {
            Some(config) => config,
            None => Config::load(&crate::config::Flags::default())?,
        };
        config.threads = self.threads.unwrap_or(config.threads);
        config.offline |= self.offline;
        config.home = self.home.unwrap_or(config.home);
        let placement = OnceLock::new();
        // GPUs that are named have to be there too
        if config.device == Device::Cuda || config.device == Device::Auto && config.devices != Devices::Auto {
            let _ = placement.set(gpus(&config)?);
        }
        if let Some(level) = config.simd.level() {
            dreamseed_kernels::simd::limit(level);
        }
        let store = Store::open(&config)?;
        let pinned = |id: &String| Ok(store.folder(store.manifest().find(id)?));
        let pinned = config.models.pinned.iter().map(pinned).collect::<Result<_>>()?;
        let models = Kept::new(config.models.memory_mb.saturating_mul(1_000_000), pinned);
        Ok(Engine {
            inner: Arc::new(Inner {
                store,
                pool: Arc::new(Pool::new(config.threads())),
                config,
                models,
                placement,
                progress: self.progress.unwrap_or_else(Progress::silent),
            }),
        })
    }
}

/// The GPUs that the configuration allows.
///
/// # Errors
/// [`Error::Device`] that says why there is none, or not each of those that are named.
#[cfg(feature = "cuda")]
fn gpus(config: &Config) -> Result<Placement> {
    let gpus = crate::llm::Gpus::open(&config.devices)?.parallel(config.llm.parallel);
    Ok(Placement::Gpu { gpus, required: config.device == Device::Cuda })
}

/// There is none in this build.
#[cfg(not(feature = "cuda"))]
fn gpus(config: &Config) -> Result<Placement> {
    let what = if config.device == Device::Cuda { "device = \"cuda\"" } else { "devices names GPUs" };
    Err(Error::Usage(format!(
        "{what}: this build has no CUDA; build with `--features cuda` (needs nvcc), or use device = \"cpu\", or \"auto\" for both"
    )))
}

/// Whether a file is a projector by its name: what stands beside a model that sees, and is none itself.
fn is_projector(file: &Path) -> bool {
    let name = file.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    name.starts_with("mmproj") && name.ends_with(".gguf")
}

impl Engine {
    /// How to make one.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The configuration in use.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Where weights are kept.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The threads that the kernels run on.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.inner.pool
    }

    /// What input is let in, as configured.
    pub fn limits(&self) -> Limits {
        let l = &self.inner.config.limits;
        Limits {
            max_bytes: l.media_mb.saturating_mul(1 << 20),
            max_seconds: l.seconds as f64,
            max_pixels: l.megapixels.saturating_mul(1_000_000),
            max_frames: l.frames as usize,
            ..Limits::default()
        }
    }

    /// The models that are loaded.
    pub fn in_memory(&self) -> Vec<InMemory> {
        self.inner.models.in_memory()
    }

    /// Lets go the models that nobody works with and nobody has asked for in `after`, but for the pinned ones. What was let go.
    pub fn let_go_idle(&self, after: Duration) -> Vec<InMemory> {
        self.inner.models.let_go_idle(after)
    }

    /// Forgets that a model (an id) is loaded: who works with it goes on, who asks next loads its files anew. Whether it was loaded.
    ///
    /// # Errors
    /// [`Error::Usage`] for an id that is not known.
    pub fn forget(&self, id: &str) -> Result<bool> {
        let store = &self.inner.store;
        Ok(self.inner.models.forget(&store.folder(store.manifest().find(id)?)))
    }

    /// Fetches what of these models (ids, profiles) and of those they need is not there, together: each package once.
    pub fn prepare(&self, ids: &[&str]) -> Result<()> {
        let mut models: Vec<&Model> = Vec::new();
        for id in ids {
            let more = self.inner.store.manifest().select(id)?;
            models.extend(more.into_iter().filter(|m| !models.iter().any(|seen| seen.id == m.id)).collect::<Vec<_>>());
        }
        self.inner.store.ensure_all(&models, &self.inner.progress)
    }

    /// The folder of a model by id, downloaded if need be.
    pub fn folder(&self, id: &str) -> Result<PathBuf> {
        let inner = &self.inner;
        inner.store.ensure(inner.store.manifest().find(id)?, &inner.progress)
    }

    /// The profile's first model of a role.
    fn default_model(&self, role: Role) -> Result<String> {
        let manifest = self.inner.store.manifest();
        let profile = crate::fetch::profile(&self.inner.config, &self.inner.store)?;
        let first = manifest.in_profile(profile, role).first().map(|m| m.id.clone());
        first.ok_or_else(|| Error::Usage(format!("profile {} has no model for {role:?}; name one with --model", profile.id)))
    }

    /// Where a model is: an id of weights.toml (the profile's model of the role when `None`), fetched with what it needs, or a path.
    /// The second is its file whose name ends in `ending`; the folder itself where it has none.
    fn locate(&self, model: Option<&str>, role: Role, ending: &str) -> Result<(PathBuf, PathBuf)> {
        let wanted = match model {
            Some(m) => m.to_string(),
            None => self.default_model(role)?,
        };
        let path = PathBuf::from(&wanted);
        match self.inner.store.manifest().find(&wanted) {
            Ok(model) if model.role != role => {
                let problem = format!("{wanted} is a model for {:?}; one for {role:?} is needed here", model.role);
                Err(Error::Usage(problem.to_lowercase()))
            }
            Ok(model) => {
                self.prepare(&[&wanted])?;
                let folder = self.inner.store.folder(model);
                let file = model.files.iter().find(|f| f.path.ends_with(ending)).map(|f| folder.join(&f.path));
                let none = || Error::Usage(format!("{wanted} has no file *{ending}: this version does not run it"));
                Ok((folder, file.ok_or_else(none)?))
            }
            Err(unknown) => match path.metadata() {
                Ok(m) if m.is_dir() => {
                    let entries = std::fs::read_dir(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
                    let files = entries.filter_map(|e| e.ok().map(|e| e.path()));
                    let file = files.filter(|f| f.to_string_lossy().ends_with(ending) && !is_projector(f)).min();
                    Ok((path.clone(), file.unwrap_or(path)))
                }
                Ok(_) => Ok((path.parent().map(Path::to_path_buf).unwrap_or_default(), path)),
                Err(source) if wanted.contains(std::path::MAIN_SEPARATOR) => Err(Error::Io { path, source }),
                Err(_) => Err(unknown),
            },
        }
    }

    /// A speech model: an id, a folder, a file of weights with its settings beside it, or the profile's.
    pub fn speech(&self, model: Option<&str>) -> Result<Arc<Whisper>> {
        let (folder, file) = self.locate(model, Role::Speech, "")?;
        // of a folder the model takes the file that it knows; a file is meant itself
        let named = model.is_some_and(|m| Path::new(m) == file);
        let path = if named { file } else { folder };
        let precision = self.inner.config.speech.precision.into();
        let open = |on: &Processor| {
            Ok(match on {
                Processor::Cpu => Whisper::open(&path, &self.inner.pool, precision)?,
                #[cfg(feature = "cuda")]
                Processor::Gpu(device) => Whisper::open_on(device, &path, &self.inner.pool, precision)?,
            })
        };
        self.inner.models.get("speech", (&path, &path), || self.placed("the speech model", open))
    }

    /// A pose model: `lite`, `full`, `heavy`, `vitpose-base`, a landmark file, a folder of ViTPose as transformers writes it, or the
    /// configuration's `pose.model`.
    pub fn pose(&self, model: Option<&str>) -> Result<Arc<Pose>> {
        let net = self.body_net(model)?;
        self.inner.models.get("pose", (&net, &net), || self.open_pose(&net, None))
    }

    /// As [`Engine::pose`], and with the net that finds several people at once.
    pub fn pose_of_several(&self, model: Option<&str>) -> Result<Arc<Pose>> {
        let net = self.body_net(model)?;
        let (_, finder) = self.locate(Some(FINDER), Role::Pose, ".json")?;
        let both = PathBuf::from(format!("{}+{FINDER}", net.display())); // the same net alone is another model
        self.inner.models.get("pose", (&both, &net), || self.open_pose(&net, Some(&finder)))
    }

    /// A landmark net's file, or the folder of a ViTPose.
    fn body_net(&self, model: Option<&str>) -> Result<PathBuf> {
        let name = model.unwrap_or(&self.inner.config.pose.model);
        let (folder, file) = self.locate(Some(name), Role::Pose, "")?;
        let of_transformers = Path::new(name) != file && folder.join("config.json").is_file();
        if of_transformers { Ok(folder) } else { Ok(self.locate(Some(name), Role::Pose, ".tflite")?.1) }
    }

    fn open_pose(&self, net: &Path, finder: Option<&Path>) -> Result<Pose> {
        let (_, detector) = self.locate(Some("blazepose-detector"), Role::Pose, ".tflite")?;
        self.placed("pose", |on| {
            let pose = match net.is_dir() {
                true => Pose::open_vitpose(on, &detector, net, &self.inner.pool)?,
                false => Pose::open(on, &detector, net)?,
            };
            Ok(match finder {
                Some(finder) => pose.with_finder(finder)?,
                None => pose,
            })
        })
    }

    /// The face models.
    pub fn face(&self) -> Result<Arc<FaceNets>> {
        self.prepare(&FACE)?;
        let (_, detector) = self.locate(Some("face-detector"), Role::Face, ".tflite")?;
        let (_, mesh) = self.locate(Some("face-mesh"), Role::Face, ".tflite")?;
        let (_, expression) = self.locate(Some("face-emotion"), Role::Face, ".json")?;
        let (_, iris) = self.locate(Some("face-iris"), Role::Face, ".tflite")?;
        let open = |on: &Processor| Ok(FaceNets::open(on, &detector, &mesh, Some(&expression))?.with_iris(&iris)?);
        self.inner.models.get("face", (&mesh, &mesh), || self.placed("face", open))
    }

    /// A vision model: an id, a folder as transformers writes it, or the profile's.
    pub fn vision(&self, model: Option<&str>) -> Result<Arc<Vision>> {
        let (folder, _) = self.locate(model, Role::Vision, ".safetensors")?;
        let open = |on: &Processor| Ok(Vision::open_at(on, &folder, &self.inner.pool, Precision::Stored)?);
        self.inner.models.get("vision", (&folder, &folder), || self.placed("the vision model", open))
    }

    /// An LLM: an id, a file, or the profile's; served as the configuration's `llm` says, on a GPU where `device` allows it and there
    /// is one.
    pub fn llm(&self, model: Option<&str>) -> Result<Arc<Llm>> {
        let (_, file) = self.locate(model, Role::Llm, ".gguf")?;
        self.inner.models.get("llm", (&file, &file), || self.open_llm(&file, self.placement()))
    }

    /// The file of an LLM, fetched if need be.
    #[cfg(feature = "cuda")]
    pub(crate) fn llm_file(&self, model: Option<&str>) -> Result<PathBuf> {
        Ok(self.locate(model, Role::Llm, ".gguf")?.1)
    }

    fn open_llm(&self, file: &Path, placement: Placement) -> Result<Llm> {
        let serving = &self.inner.config.llm;
        let settings = Settings {
            cache: serving.cache.into(),
            cache_tokens: serving.cache_tokens,
            sequences: serving.sequences,
            speculation: self.speculation(file, &serving.draft)?,
            placement,
        };
        Llm::open_with(file, self.inner.pool.clone(), &settings)
    }

    /// Opens a model where it is to run: on the GPU where one is used; with `device = "auto"` on the CPU where the GPU refuses it, has no
    /// room for it or no kernels of its shapes, and a line in the log says so.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "there is one place alone"))]
    fn placed<T>(&self, what: &str, open: impl Fn(&Processor) -> Result<T>) -> Result<T> {
        #[cfg(feature = "cuda")]
        if let Placement::Gpu { gpus, required } = self.placement() {
            match open(&Processor::Gpu(gpus.first()?)) {
                Err(Error::Weights(why @ (WeightsError::Device(_) | WeightsError::Unsupported(_)))) if !required => {
                    let model = open(&Processor::Cpu)?; // what runs nowhere is an error, not a warning
                    tracing::warn!("{what} runs on the CPU: {why}");
                    return Ok(model);
                }
                Err(Error::Weights(WeightsError::Device(why))) => return Err(Error::Device(format!("{what}: {why}"))),
                other => return other,
            }
        }
        open(&Processor::Cpu)
    }

    /// Where models run.
    fn placement(&self) -> Placement {
        let found = || match self.inner.config.device {
            Device::Auto if cfg!(feature = "cuda") => gpus(&self.inner.config).unwrap_or_else(|why| {
                tracing::warn!("no GPU is used: {why}");
                Placement::Cpu
            }),
            _ => Placement::Cpu, // a GPU that has to be there was opened with the engine
        };
        self.inner.placement.get_or_init(found).clone()
    }

    /// As [`Engine::llm`], with the sight that its projector gives it: `mmproj`, else the one that weights.toml names for the model,
    /// else a file mmproj*.gguf beside the model's.
    ///
    /// # Errors
    /// As [`Engine::llm`]; [`Error::Usage`] where there is no projector.
    pub fn llm_that_sees(&self, model: Option<&str>, mmproj: Option<&Path>) -> Result<Arc<Llm>> {
        let projector = match mmproj {
            Some(file) => file.to_path_buf(),
            None => self.projector_of(model)?,
        };
        let llm = match self.placement() {
            Placement::Cpu => self.llm(model)?,
            // one that is on a GPU already does not see: the two are kept apart
            #[cfg(feature = "cuda")]
            Placement::Gpu { required, .. } => {
                if required {
                    return Err(Error::Usage(
                        "device = \"cuda\": pictures run on the CPU alone; use \"auto\" or \"cpu\"".into(),
                    ));
                }
                let (_, file) = self.locate(model, Role::Llm, ".gguf")?;
                let both = PathBuf::from(format!("{}+sight", file.display()));
                self.inner.models.get("llm", (&both, &file), || {
                    tracing::warn!("the model runs on the CPU: pictures do not run on a GPU yet");
                    self.open_llm(&file, Placement::Cpu)
                })?
            }
        };
        llm.open_sight(&projector)?;
        Ok(llm)
    }

    /// The projector's file of a language model.
    fn projector_of(&self, model: Option<&str>) -> Result<PathBuf> {
        let id = model.map_or_else(|| self.default_model(Role::Llm), |m| Ok(m.to_string()))?;
        if let Some(named) = self.inner.store.manifest().find(&id).ok().and_then(|m| m.projector.as_deref()) {
            return Ok(self.locate(Some(named), Role::Projector, ".gguf")?.1);
        }
        let (folder, file) = self.locate(model, Role::Llm, ".gguf")?;
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { &folder };
        let beside = || std::fs::read_dir(folder).ok()?.filter_map(|e| Some(e.ok()?.path())).filter(|f| is_projector(f)).min();
        beside().ok_or_else(|| {
            let problem = "takes no pictures: it has no projector beside it (mmproj*.gguf); name one with --mmproj";
            Error::Usage(format!("{} {problem}", file.display()))
        })
    }

    /// Who guesses for the model in `file`.
    fn speculation(&self, file: &Path, draft: &str) -> Result<Speculation> {
        match draft {
            "off" => return Ok(Speculation::Off),
            "look-up" => return Ok(Speculation::LookUp),
            _ => {}
        }
        let (_, draft) = self.locate(Some(draft), Role::Llm, ".gguf")?;
        if draft == file {
            return Ok(Speculation::Off); // the small model itself is asked: nobody guesses faster than it writes
        }
        // it keeps the guessed texts with the model that it guesses for, and needs hardly room of its own
        let settings = Settings { cache_tokens: 1, placement: self.placement().of_draft(), ..Settings::default() };
        let llm =
            self.inner.models.get("draft", (&draft, &draft), || Llm::open_with(&draft, self.inner.pool.clone(), &settings))?;
        Ok(Speculation::Draft(llm))
    }

    /// Speech to text. `on_progress` sees segments as they come and can stop.
    pub fn transcribe(
        &self,
        model: Option<&str>,
        pcm: &[f32],
        options: &whisper::Options,
        on_progress: &mut dyn FnMut(whisper::Progress) -> std::ops::ControlFlow<()>,
    ) -> Result<Transcript> {
        Ok(self.speech(model)?.transcribe(&self.inner.pool, pcm, options, on_progress)?)
    }

    /// Holds audio at 16 kHz against the text that should have been said; `heard` is its transcript with word times by the same
    /// model.
    ///
    /// # Errors
    /// As [`Engine::transcribe`]; a text that the model cannot read.
    pub fn pronunciation(
        &self,
        model: Option<&str>,
        pcm: &[f32],
        expected: &str,
        heard: &Transcript,
        on_progress: &mut dyn FnMut(whisper::Progress) -> std::ops::ControlFlow<()>,
    ) -> Result<whisper::Pronunciation> {
        Ok(self.speech(model)?.pronunciation(&self.inner.pool, pcm, expected, heard, on_progress)?)
    }

    /// Perceives a clip: the tracks that `wanted` names and the clip has something for.
    ///
    /// # Errors
    /// Models that cannot be had or loaded; [`Error::Cancelled`] soon after `cancel` is set.
    pub fn perceive(&self, clip: &Clip, wanted: &Wanted, cancel: &AtomicBool) -> Result<Tracks> {
        self.prepare(&wanted.models(self, clip)?.iter().map(String::as_str).collect::<Vec<_>>())?;
        let (sound, sight) = (!clip.pcm.is_empty(), !clip.frames.is_empty());
        let speech = (wanted.speech && sound).then(|| self.speech(wanted.speech_model.as_deref())).transpose()?;
        let bodies = || match wanted.people {
            0 | 1 => self.pose(wanted.pose_model.as_deref()),
            _ => self.pose_of_several(wanted.pose_model.as_deref()),
        };
        let pose = (wanted.pose && sight).then(bodies).transpose()?;
        let face = (wanted.face && sight).then(|| self.face()).transpose()?;
        let language = speech.as_ref().and_then(|speech| language_of(speech, clip.text.as_deref()));
        let vision = wanted.vision_model.as_deref().filter(|_| sight).map(|m| self.vision(Some(m))).transpose()?;
        let perception = Perception {
            speech: speech.as_deref(),
            speech_options: whisper::Options {
                word_timestamps: true,
                language,
                vad: self.config().speech.vad,
                windows: self.config().speech.windows.into(),
                ..whisper::Options::default()
            },
            expected: clip.text.as_deref(),
            prosody: wanted.prosody && sound,
            music: wanted.music && sound,
            pose: pose.as_deref(),
            people: wanted.people,
            face: face.as_deref(),
            vision: vision.as_deref(),
            video: clip.frames.len() > 1,
        };
        extract::extract(&self.inner.pool, clip, &perception, cancel)
    }
}

/// The language that a text's letters name, where the model knows it: short Korean is else taken for others.
pub(crate) fn language_of(speech: &Whisper, text: Option<&str>) -> Option<String> {
    let named = text.and_then(whisper::language_of)?;
    speech.languages().any(|known| known == named).then(|| named.to_owned())
}

/// Which tracks of a clip are wanted, and by which models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Speech to text.
    pub speech: bool,
    /// Pitch, loudness, rhythm.
    pub prosody: bool,
    /// Onsets, tempo and beats.
    pub music: bool,
    /// Body.
    pub pose: bool,
    /// Face.
    pub face: bool,
    /// Speech model: an id or a folder; `None` is the profile's.
    pub speech_model: Option<String>,
    /// Pose model: an id, a file or a folder; `None` is the configuration's `pose.model`.
    pub pose_model: Option<String>,
    /// Most people to follow; the timeline is of the main one.
    pub people: usize,
    /// Vision model, an id or a folder: embeddings of the pictures. `None`: none are made.
    pub vision_model: Option<String>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            speech: true,
            prosody: true,
            music: true,
            pose: true,
            face: true,
            speech_model: None,
            pose_model: None,
            people: 1,
            vision_model: None,
        }
    }
}

impl Wanted {
    /// Ids of the models that look at `clip`; those given as files are left out.
    pub(crate) fn models(&self, engine: &Engine, clip: &Clip) -> Result<Vec<String>> {
        let (sound, sight) = (!clip.pcm.is_empty(), !clip.frames.is_empty());
        let mut ids = Vec::new();
        if self.speech && sound {
            ids.push(self.speech_model.clone().map_or_else(|| engine.default_model(Role::Speech), Ok)?);
        }
        if self.pose && sight {
            ids.push(self.pose_model.clone().unwrap_or_else(|| engine.config().pose.model.clone()));
            ids.extend((self.people > 1).then(|| FINDER.into()));
        }
        if self.face && sight {
            ids.extend(FACE.map(String::from));
        }
        ids.extend(self.vision_model.clone().filter(|_| sight));
        ids.retain(|id| engine.store().manifest().find(id).is_ok());
        Ok(ids)
    }
}
