//! `dreamseed serve` and `dreamseed key new`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{emit, note};
use crate::{
    Result,
    config::Config,
    serve::{
        self,
        keys::{Limits, Scope},
    },
};

/// Arguments of `serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Address and port (default: the configuration's, 127.0.0.1:8077)
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// The file of API keys
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Let other machines ask without a key
    #[arg(long)]
    pub open: bool,
}

/// Arguments of `key`.
#[derive(Clone, Debug, Subcommand)]
pub enum KeyCommand {
    /// Make an API key: the key goes to stdout once, its entry for the file of keys with it
    New {
        /// Whose it is, for logs
        name: String,
        /// What it opens
        #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Scope::Chat, Scope::Speech, Scope::Coach, Scope::Senses])]
        scope: Vec<Scope>,
        #[command(flatten)]
        limits: Limits,
        /// Add the entry to this file, and print the key alone
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

pub(super) fn run(mut config: Config, args: ServeArgs) -> Result<()> {
    let serve = &mut config.serve;
    serve.listen = args.listen.unwrap_or_else(|| serve.listen.clone());
    serve.keys = args.keys.unwrap_or_else(|| serve.keys.clone());
    serve.open |= args.open;
    serve.validate()?;
    serve::run(super::engine(config)?)
}

pub(super) fn key(command: KeyCommand) -> Result<()> {
    let KeyCommand::New { name, scope, limits, file } = command;
    let (key, entry) = serve::keys::new_key(&name, &scope, limits)?;
    match file {
        None => {
            note("the key is shown this once; the entry goes into the file of keys (serve.keys):");
            emit(&format!("{key}\n\n{}", entry.trim_end()))
        }
        Some(path) => {
            serve::keys::append(&path, &entry)?;
            emit(&key)
        }
    }
}
