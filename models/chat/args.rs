//! Arguments of a call, by place and by name.

use std::rc::Rc;

use super::{
    template::{Halt, Rendered},
    value::Value,
};

/// What a call gives.
#[derive(Default)]
pub(super) struct Args {
    /// By place.
    pub(super) by_place: Vec<Value>,
    /// By name.
    pub(super) by_name: Vec<(Rc<str>, Value)>,
}

impl Args {
    /// The arguments that `of` takes, in the order of their names; `None` where one is not given.
    pub(super) fn bind<const N: usize>(mut self, of: &str, names: [&str; N]) -> Rendered<[Option<Value>; N]> {
        let given = self.by_place.len();
        if given > N {
            return Err(Halt::fault(format!("{of} takes at most {N} arguments, not {given}")));
        }
        let mut by_place = std::mem::take(&mut self.by_place).into_iter();
        let bound = names.map(|name| by_place.next().or_else(|| self.take(name)));
        self.finish(of)?;
        Ok(bound)
    }

    /// Takes out what was given by a name.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.by_name.iter().position(|(given, _)| &**given == name)?;
        Some(self.by_name.swap_remove(at).1)
    }

    /// Refuses names that nobody took.
    pub(super) fn finish(&self, of: &str) -> Rendered<()> {
        match self.by_name.first() {
            Some((name, _)) => Err(Halt::fault(format!("{of} takes no argument {name:?}"))),
            None => Ok(()),
        }
    }

    /// Nothing is taken.
    pub(super) fn none(self, of: &str) -> Rendered<()> {
        self.bind(of, []).map(|[]| ())
    }
}
