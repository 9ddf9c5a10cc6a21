//! A language model: decoder, tokenizer and chat template, and the thread that serves it.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use dreamseed_kernels::{KvType, Pool};
use dreamseed_models::{
    chat::ChatTemplate,
    decoder::{self, Decoder},
    tokenizer::Tokenizer,
    weights::{self, gguf::Gguf},
};

use super::{
    Constraint, Grammar, Placement, Prompt, Seen,
    constrain::Compiler,
    executor::{Executor, Source},
    runner::Runner,
    sight::{DEFAULT_TOKENS, Sight},
};
use crate::{Error, Result, media::Frame};

/// How a model is served.
#[derive(Clone)]
pub struct Settings {
    /// How keys and values are stored.
    pub cache: KvType,
    /// Positions that all sequences together have room for; a session that wants more raises it. On a GPU with less room they are as
    /// many as fit.
    pub cache_tokens: usize,
    /// Most sequences that are computed at once; more wait.
    pub sequences: usize,
    /// Whether tokens are guessed ahead. It changes the speed, never the text.
    pub speculation: Speculation,
    /// Where it runs.
    pub placement: Placement,
}

impl Default for Settings {
    fn default() -> Self {
        let (speculation, placement) = (Speculation::Off, Placement::Cpu);
        Self { cache: KvType::F16, cache_tokens: 8192, sequences: 32, speculation, placement }
    }
}

/// Who guesses the next tokens.
#[derive(Clone, Default)]
pub enum Speculation {
    /// Nobody.
    #[default]
    Off,
    /// What followed the last time that the text ended so.
    LookUp,
    /// A small model with the same tokens.
    Draft(Arc<Llm>),
}

/// What a model is; immutable.
pub(super) struct Core {
    pub(super) executor: Executor,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) template: ChatTemplate,
    pub(super) pool: Arc<Pool>,
}

/// A language model with its tokenizer and chat template, and a thread that computes for everyone who uses it. Share it: sequences
/// that run at the same time are computed together, and what they begin with in common is computed once.
pub struct Llm {
    runner: Runner,
    core: Arc<Core>,
    grammars: OnceLock<Result<Compiler, String>>, // made for the first constrained text
    sight: OnceLock<Sight>,                       // opened for the first picture
}

impl Llm {
    /// Opens a GGUF file, or a folder with config.json, tokenizer.json and safetensors.
    ///
    /// # Errors
    /// [`Error::Weights`].
    pub fn open(path: &Path, pool: Arc<Pool>) -> Result<Self> {
        Self::open_with(path, pool, &Settings::default())
    }

    /// As [`Llm::open`], served as `settings` say.
    ///
    /// # Errors
    /// As [`Llm::open`]; [`Error::Usage`] when the draft model does not have the same tokens, or a required GPU does not run such a
    /// model; [`Error::Device`] when it has no room.
    pub fn open_with(path: &Path, pool: Arc<Pool>, settings: &Settings) -> Result<Self> {
        if path.is_dir() {
            return Self::open_folder(path, pool, settings);
        }
        let gguf = Gguf::open(path)?;
        let tokenizer = Tokenizer::from_gguf(&gguf)?;
        let template = ChatTemplate::from_gguf(&gguf, &tokenizer)?;
        let mut settings = settings.clone();
        let executor = Executor::open(&Source::Gguf(&gguf), &pool, &mut settings)?;
        Self::new(Core { executor, tokenizer: tokenizer.into(), template, pool }, &settings)
    }

    fn open_folder(path: &Path, pool: Arc<Pool>, settings: &Settings) -> Result<Self> {
        let special = SpecialTokens::read(path)?;
        let tokenizer = Tokenizer::from_json(&path.join("tokenizer.json"), special.bos, &special.eos)?;
        let template = ChatTemplate::new(special.template.as_deref(), &tokenizer);
        let template = template.map_err(|e| weights::Error::Unsupported(format!("{}: {e}", path.display())))?;
        let mut settings = settings.clone();
        let executor = Executor::open(&Source::Folder(path), &pool, &mut settings)?;
        Self::new(Core { executor, tokenizer: tokenizer.into(), template, pool }, &settings)
    }

    fn new(core: Core, settings: &Settings) -> Result<Self> {
        let (tokens, rows) = (core.tokenizer.len(), core.executor.config().vocab);
        if tokens > rows {
            let problem = format!("the tokenizer has {tokens} tokens, the decoder {rows}: they do not belong together");
            return Err(weights::Error::Unsupported(problem).into());
        }
        let core = Arc::new(core);
        Ok(Self { runner: Runner::start(core.clone(), settings)?, core, grammars: OnceLock::new(), sight: OnceLock::new() })
    }

    /// The network, where it runs on the processor: for those who want to run passes themselves, or to show it pictures.
    ///
    /// # Errors
    /// [`Error::Usage`] when it runs on a GPU.
    pub fn decoder(&self) -> Result<&Decoder> {
        match &self.core.executor {
            Executor::Cpu(decoder) => Ok(decoder),
            #[cfg(feature = "cuda")]
            Executor::Gpu(_) => {
                let problem =
                    "the model runs on a GPU, where it takes no pictures and has no such bench; choose device = \"cpu\"";
                Err(Error::Usage(problem.into()))
            }
        }
    }

    /// The GPUs that it runs on, in the order of its layers.
    #[cfg(feature = "cuda")]
    pub fn devices(&self) -> Option<Vec<dreamseed_kernels::cuda::Device>> {
        match &self.core.executor {
            Executor::Cpu(_) => None,
            Executor::Gpu(decoder) => Some(decoder.devices().map(|(device, _)| device.clone()).collect()),
        }
    }

    /// How it lies on them.
    #[cfg(feature = "cuda")]
    pub fn way(&self) -> Option<crate::plan::Way> {
        use crate::plan::Way;
        match &self.core.executor {
            Executor::Cpu(_) => None,
            Executor::Gpu(decoder) if decoder.is_cut() => Some(Way::Tensor),
            Executor::Gpu(decoder) if decoder.devices().len() > 1 => Some(Way::Layers),
            Executor::Gpu(_) => Some(Way::One),
        }
    }

    /// The network's shape and kind.
    pub fn config(&self) -> &decoder::Config {
        self.core.executor.config()
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.core.executor.parameters()
    }

    /// The vocabulary.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.core.tokenizer
    }

    /// How conversations are written.
    pub fn template(&self) -> &ChatTemplate {
        &self.core.template
    }

    /// The beginning of a text in this model's tokens that follows `grammar`. A session does this by itself for
    /// [`Options::grammar`](super::Options::grammar); it is for those who want to choose tokens themselves, or to know early whether
    /// a grammar will do. The first one of a model sorts its vocabulary, which takes a tenth of a second for 50,000 tokens.
    ///
    /// # Errors
    /// [`Error::Usage`] for a grammar that is malformed, too large or too complex, asks for what is not supported, or that no text
    /// follows.
    pub fn constrain(&self, grammar: &Grammar) -> Result<Constraint> {
        let compiler = self.grammars.get_or_init(|| Compiler::new(self.core.tokenizer.clone()));
        compiler.as_ref().map_err(|e| Error::Usage(e.clone()))?.compile(grammar)
    }

    /// Gives the model its sight: the projector (mmproj) file that belongs to it. A second call with the same file does nothing.
    ///
    /// # Errors
    /// [`Error::Weights`] for a file that cannot be used, [`Error::Usage`] for one of another model, or when the model sees by another
    /// file already.
    pub fn open_sight(&self, path: &Path) -> Result<()> {
        if self.sight.get().is_none() {
            let sight = Sight::open(path, self.decoder()?, &self.core.tokenizer)?;
            let _ = self.sight.set(sight); // of two at once the first stays
        }
        match self.sight.get() {
            Some(sight) if sight.path() != path => {
                let (seen, path) = (sight.path().display(), path.display());
                Err(Error::Usage(format!("the model sees by {seen} already; open it anew to use {path}")))
            }
            _ => Ok(()),
        }
    }

    /// A picture as the model sees it. `tokens`: how many of the context it may take, where the model leaves that open (Qwen3-VL;
    /// default 1,024); larger pictures are scaled down. The same picture is looked at once as long as there is room to keep it.
    ///
    /// # Errors
    /// [`Error::Usage`] when the model has no sight ([`Llm::open_sight`]) or cannot take the picture.
    pub fn see(&self, picture: &Frame, tokens: Option<usize>) -> Result<Seen> {
        self.sight()?.see(&self.core.pool, picture, tokens.unwrap_or(DEFAULT_TOKENS))
    }

    fn sight(&self) -> Result<&Sight> {
        let blind = || Error::Usage("this model takes no pictures until it has its projector: give its mmproj file".into());
        self.sight.get().ok_or_else(blind)
    }

    /// What stands in a prompt where a picture is.
    pub(super) fn picture_mark(&self) -> Result<String> {
        let marks = self.sight()?.marks();
        Ok([marks.before, marks.row, marks.after].concat())
    }

    /// The prompt of a conversation with pictures.
    pub(super) fn place(&self, tokens: Vec<u32>, pictures: &[Seen]) -> Result<Prompt> {
        if pictures.is_empty() { Ok(Prompt::text(tokens)) } else { self.sight()?.place(&tokens, pictures) }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) fn runner(&self) -> &Runner {
        &self.runner
    }
}

/// What config.json and tokenizer_config.json say beside the decoder's shape.
#[derive(Default)]
struct SpecialTokens {
    bos: Option<u32>,
    eos: Vec<u32>,
    template: Option<String>,
}

impl SpecialTokens {
    fn read(folder: &Path) -> Result<Self> {
        let json = |name: &str| -> Result<Option<serde_json::Value>> {
            let path = folder.join(name);
            match weights::read_whole(&path, weights::TEXT) {
                Ok(text) => Ok(Some(serde_json::from_slice(&text).map_err(|e| weights::Error::Field {
                    format: "json",
                    field: path.display().to_string(),
                    offset: e.column() as u64,
                    problem: e.to_string(),
                })?)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(Error::Io { path, source }),
            }
        };
        let mut special = Self::default();
        for name in ["config.json", "generation_config.json"] {
            let Some(config) = json(name)? else { continue };
            let id = |v: &serde_json::Value| v.as_u64().and_then(|v| u32::try_from(v).ok());
            special.bos = special.bos.or(id(&config["bos_token_id"]));
            let eos = &config["eos_token_id"];
            special.eos.extend(eos.as_array().into_iter().flatten().chain([eos]).filter_map(id));
        }
        let config = json("tokenizer_config.json")?;
        special.template = config.and_then(|c| c["chat_template"].as_str().map(str::to_owned));
        Ok(special)
    }
}
