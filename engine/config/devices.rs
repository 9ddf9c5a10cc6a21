//! Which GPUs are used.

use serde::{Deserialize, Serialize};

/// Which GPUs language models run on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// One where the model fits, else as many as it needs.
    #[default]
    Auto,
    /// All of these, by their numbers in the driver's order. They have to be there.
    These(Vec<usize>),
}

impl Devices {
    /// Most that can be named.
    pub const MOST: usize = 16;

    pub(super) fn validate(&self) -> Result<(), String> {
        let Self::These(numbers) = self else { return Ok(()) };
        if !(1..=Self::MOST).contains(&numbers.len()) {
            return Err(format!("{} GPUs are named; \"auto\", or 1 to {} numbers as [0, 1]", numbers.len(), Self::MOST));
        }
        match numbers.iter().enumerate().find(|(i, n)| numbers[..*i].contains(n)) {
            Some((_, twice)) => Err(format!("GPU {twice} is named twice; each may be there once")),
            None => Ok(()),
        }
    }
}

impl std::str::FromStr for Devices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let number =
            |n: &str| n.trim().parse().map_err(|_| format!("{n:?} is no number of a GPU; \"auto\", or numbers as 0,1"));
        text.split(',').map(number).collect::<Result<_, _>>().map(Self::These)
    }
}

impl Serialize for Devices {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => to.serialize_str("auto"),
            Self::These(numbers) => numbers.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "devices: \"auto\", or numbers as [0, 1]")]
        enum Written {
            Text(String),
            Numbers(Vec<usize>),
        }
        match Written::deserialize(from)? {
            Written::Text(text) => text.parse().map_err(|e| serde::de::Error::custom(format!("devices: {e}"))),
            Written::Numbers(numbers) => Ok(Self::These(numbers)),
        }
    }
}
