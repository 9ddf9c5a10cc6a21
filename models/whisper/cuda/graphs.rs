//! Launches of a pass as graphs: a step of the decoder is many small ones, the same at every step but for what its buffers hold.

use dreamseed_kernels::cuda::{Device, Error, Graph};

/// Most graphs of a state.
const MOST: usize = 16;

/// Which launches: with the same buffers, two that are equal are equal in all their arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Launches {
    /// Of all layers: the number of the audio that rows hear and how many of them do, in turn.
    Layers(Vec<(usize, usize)>),
    /// Of the head over so many rows.
    Head(usize),
}

/// Graphs, captured when the same launches come the second time: a prompt comes once.
#[derive(Default)]
pub(super) struct Graphs(Vec<(Launches, Option<Graph>)>); // the last ones used at the end

impl Graphs {
    /// Runs `launches`, which are `what`; without a name they are launched as they are.
    ///
    /// # Errors
    /// Theirs, and those of [`Device::capture`].
    pub(super) fn run(
        &mut self,
        device: &Device,
        what: Option<Launches>,
        launches: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Some(what) = what else { return launches() };
        let known = self.0.iter().position(|(known, _)| *known == what).map(|at| self.0.remove(at).1);
        let graph = match known {
            Some(Some(graph)) => Some(graph),
            Some(None) => Some(device.capture(launches)?),
            None => {
                launches()?;
                None
            }
        };
        if let Some(graph) = &graph {
            graph.replay()?;
        }
        if self.0.len() == MOST {
            self.0.remove(0);
        }
        self.0.push((what, graph));
        Ok(())
    }

    /// Graphs that were captured, and the launches of the largest.
    #[cfg(test)]
    pub(super) fn captured(&self) -> (usize, usize) {
        let graphs = || self.0.iter().filter_map(|(_, graph)| graph.as_ref());
        (graphs().count(), graphs().map(Graph::launches).max().unwrap_or(0))
    }
}
