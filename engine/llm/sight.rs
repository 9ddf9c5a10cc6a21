//! What lets a language model see: its projector, and the pictures that it has looked at last.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use dreamseed_kernels::Pool;
use dreamseed_models::{
    decoder::{Decoder, Features, Picture},
    image::Image,
    projector::{Marks, Projector},
    tokenizer::{Specials, Tokenizer},
};
use sha2::{Digest, Sha256};

use super::runner::ROWS;
use crate::{Error, Result, media::Frame};

/// The first of the numbers that stand for rows of pictures among a sequence's tokens: above every vocabulary.
const FIRST_PICTURE: u32 = 1 << 31;
/// Bytes of features that are kept in case the same picture comes again.
const KEPT: usize = 256 << 20;
/// Embeddings of a picture at most, where the model leaves that open (Qwen3-VL: a row for 32 x 32 pixels).
pub(super) const DEFAULT_TOKENS: usize = 1024;

/// Whether a number among a sequence's tokens stands for a picture's row.
pub(super) fn is_picture(token: u32) -> bool {
    token >= FIRST_PICTURE
}

/// A picture as a language model sees it. Made by [`super::Llm::see`] for that model.
#[derive(Clone, Debug)]
pub struct Seen {
    id: u32, // of no other picture and no other model's: what is known of a prompt is found by it
    features: Arc<Features>,
}

impl Seen {
    /// Tokens of the context that it takes, the marks around it not counted.
    pub fn tokens(&self) -> usize {
        self.features.len()
    }

    /// Rows and columns of its embeddings.
    pub fn grid(&self) -> [usize; 2] {
        self.features.grid
    }
}

/// A prompt with pictures in it.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// Tokens; where a picture stands, the model's token for its rows.
    pub(super) tokens: Vec<u32>,
    /// Pictures and where they begin, in order.
    pub(super) pictures: Vec<(usize, Seen)>,
}

impl Prompt {
    /// Text alone.
    pub fn text(tokens: Vec<u32>) -> Self {
        Self { tokens, pictures: Vec::new() }
    }

    /// The tokens; where a picture stands, the model's token for its rows.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many of the tokens are rows of pictures.
    pub fn picture_tokens(&self) -> usize {
        self.pictures.iter().map(|(_, seen)| seen.tokens()).sum()
    }

    /// The tokens as the accounting takes them: a picture's rows by its number. And where the decoder finds pictures.
    pub(super) fn numbered(&self) -> (Vec<u32>, Vec<Picture>) {
        let mut tokens = self.tokens.clone();
        for (at, seen) in &self.pictures {
            tokens[*at..*at + seen.tokens()].fill(seen.id);
        }
        let picture = |(at, seen): &(usize, Seen)| Picture { at: *at, features: seen.features.clone() };
        (tokens, self.pictures.iter().map(picture).collect())
    }
}

/// A model's sight.
pub(super) struct Sight {
    path: PathBuf,
    projector: Projector,
    row: u32, // the token whose place a picture's rows take
    looked: Mutex<Looked>,
}

/// Pictures that were looked at, the latest last.
#[derive(Default)]
struct Looked {
    known: VecDeque<([u8; 32], Seen)>, // by the hash of size, pixels and bound
    bytes: usize,
    count: u32,
}

impl Sight {
    /// Opens a projector and holds it against its model.
    ///
    /// # Errors
    /// [`Error::Weights`] for a file that cannot be used, [`Error::Usage`] for one of another model.
    pub(super) fn open(path: &Path, decoder: &Decoder, tokenizer: &Tokenizer) -> Result<Self> {
        let projector = Projector::open(path)?;
        let (p, d) = (projector.config(), decoder.config());
        let other = |what: String| Err(Error::Usage(format!("{} is not this model's projector: {what}", path.display())));
        if (p.out, p.deepstack.len()) != (d.dim, d.deepstack) {
            let (out, levels) = (p.out, p.deepstack.len());
            return other(format!("{out} wide with {levels} levels, and the model is {} wide with {}", d.dim, d.deepstack));
        }
        // A picture of one size for a model whose pictures' rows see each other, and the other way round.
        let fixed = projector.grid(1, 2, 1).ok() == projector.grid(64, 32, 4).ok();
        if fixed != d.whole_pictures {
            return other("it is for models of another family".into());
        }
        let rows = projector.grid(1, 1, 1).map_or(0, |[rows, columns]| rows * columns);
        if d.whole_pictures && rows > ROWS {
            return other(format!("{rows} tokens a picture; a pass takes {ROWS}"));
        }
        let mark = projector.marks().row;
        match tokenizer.encode(mark, Specials::Parse)?[..] {
            [row] => Ok(Self { path: path.into(), projector, row, looked: Mutex::default() }),
            _ => other(format!("the model has no token {mark}")),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn marks(&self) -> Marks {
        self.projector.marks()
    }

    /// A picture as the model sees it, in at most `tokens` embeddings where the model leaves that open.
    ///
    /// # Errors
    /// [`Error::Usage`] for one that the model cannot take.
    pub(super) fn see(&self, pool: &Pool, frame: &Frame, tokens: usize) -> Result<Seen> {
        let image = Image::new(frame.width, frame.height, &frame.rgb);
        let image = image.ok_or_else(|| Error::Usage("a picture without pixels".into()))?;
        let mut hash = Sha256::new();
        hash.update([frame.width.to_le_bytes(), frame.height.to_le_bytes()].concat());
        hash.update((tokens as u64).to_le_bytes());
        hash.update(&frame.rgb);
        let hash: [u8; 32] = hash.finalize().into();
        if let Some(seen) = self.looked().find(&hash) {
            return Ok(seen);
        }
        let features = self.projector.encode(pool, &image, tokens).map_err(|e| Error::Usage(e.to_string()))?;
        self.looked().add(hash, features)
    }

    fn looked(&self) -> std::sync::MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts pictures at the places that the template left for them, one token each.
    ///
    /// # Errors
    /// [`Error::Usage`] where places and pictures are not the same number.
    pub(super) fn place(&self, tokens: &[u32], seen: &[Seen]) -> Result<Prompt> {
        let (mut prompt, mut left) = (Prompt::default(), seen.iter());
        let places = tokens.iter().filter(|t| **t == self.row).count();
        if places != seen.len() {
            let problem = format!("{} pictures, and the conversation has places for {places}", seen.len());
            return Err(Error::Usage(problem));
        }
        for &token in tokens {
            match (token == self.row).then(|| left.next()).flatten() {
                None => prompt.tokens.push(token),
                Some(seen) => {
                    prompt.pictures.push((prompt.tokens.len(), seen.clone()));
                    prompt.tokens.extend(std::iter::repeat_n(token, seen.tokens()));
                }
            }
        }
        Ok(prompt)
    }
}

impl Looked {
    fn find(&mut self, hash: &[u8; 32]) -> Option<Seen> {
        let at = self.known.iter().position(|k| k.0 == *hash)?;
        let known = self.known.remove(at)?;
        self.known.push_back(known);
        self.known.back().map(|k| k.1.clone())
    }

    /// A number of its own for a picture that is not known. One that is forgotten and comes again has another: it is computed anew.
    fn add(&mut self, hash: [u8; 32], features: Features) -> Result<Seen> {
        let id = FIRST_PICTURE.checked_add(self.count);
        let id = id.ok_or_else(|| Error::Internal("more pictures than have numbers; start the program again".into()))?;
        self.count += 1;
        let seen = Seen { id, features: features.into() };
        self.bytes += bytes(&seen);
        self.known.push_back((hash, seen.clone()));
        while self.bytes > KEPT
            && let Some((_, old)) = self.known.pop_front()
        {
            self.bytes -= bytes(&old);
        }
        Ok(seen)
    }
}

fn bytes(seen: &Seen) -> usize {
    (seen.features.rows.len() + seen.features.deep.len()) * size_of::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_belongs_to_one_picture_for_ever() {
        let mut looked = Looked::default();
        let add = |looked: &mut Looked, n: u8| {
            let features = Features { grid: [1, 1], rows: vec![0.0; KEPT / 12], deep: Vec::new() };
            looked.add([n; 32], features).unwrap().id
        };
        let ids: Vec<u32> = (0..4).map(|n| add(&mut looked, n)).collect();
        assert!(ids.windows(2).all(|w| w[0] < w[1]) && ids.iter().all(|id| is_picture(*id)));
        assert!(looked.find(&[0; 32]).is_none() && looked.bytes <= KEPT, "the first one had to go");
        assert_eq!(looked.find(&[2; 32]).unwrap().id, ids[2]);
        assert!(add(&mut looked, 0) > ids[3], "a forgotten one is another");
        assert!(looked.find(&[1; 32]).is_none() && looked.find(&[2; 32]).is_some(), "the one not asked for goes first");
        looked.count = u32::MAX - FIRST_PICTURE + 1;
        assert!(looked.add([9; 32], Features { grid: [1, 1], rows: Vec::new(), deep: Vec::new() }).is_err());
    }

    #[test]
    fn rows_are_told_apart_by_their_picture() {
        let seen = |id, n| Seen { id, features: Arc::new(Features { grid: [1, n], rows: Vec::new(), deep: Vec::new() }) };
        let prompt = Prompt {
            tokens: vec![1, 9, 9, 2, 9],
            pictures: vec![(1, seen(FIRST_PICTURE, 2)), (4, seen(FIRST_PICTURE + 5, 1))],
        };
        let (tokens, pictures) = prompt.numbered();
        assert_eq!(tokens, [1, FIRST_PICTURE, FIRST_PICTURE, 2, FIRST_PICTURE + 5]);
        assert_eq!(pictures.iter().map(|p| (p.at, p.end())).collect::<Vec<_>>(), [(1, 3), (4, 5)]);
        assert_eq!(prompt.picture_tokens(), 3);
    }
}
