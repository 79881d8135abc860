//! Apps: a map, a reduce and perhaps a combiner under one name.

use crate::error::Result;
use crate::function::{Map, Reduce, Setup};
use crate::input::format::Format;

type MakeMap = Box<dyn Fn(&Setup) -> Result<Box<dyn Map>> + Send + Sync>;
type MakeReduce = Box<dyn Fn(&Setup) -> Result<Box<dyn Reduce>> + Send + Sync>;

/// A job that this program can run.
pub struct App {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) map: MakeMap,
    pub(crate) reduce: MakeReduce,
    pub(crate) combine: Option<MakeReduce>,
    pub(crate) format: Format,
    pub(crate) params: Vec<(&'static str, &'static str)>,
    pub(crate) in_order: bool,
    pub(crate) reducers: Option<u32>,
}

impl App {
    /// An app; `map` and `reduce` make its functions for one task.
    pub fn new<M: Map + 'static, R: Reduce + 'static>(
        name: &'static str,
        about: &'static str,
        map: fn(&Setup) -> Result<M>,
        reduce: fn(&Setup) -> Result<R>,
    ) -> Self {
        Self {
            name,
            about,
            map: Box::new(move |setup| Ok(Box::new(map(setup)?))),
            reduce: Box::new(move |setup| Ok(Box::new(reduce(setup)?))),
            combine: None,
            format: Format::Lines,
            params: Vec::new(),
            in_order: false,
            reducers: None,
        }
    }

    /// With a combiner: a reduce that emits pairs like those it takes, under the keys it was given.
    #[must_use]
    pub fn combine<R: Reduce + 'static>(mut self, combine: fn(&Setup) -> Result<R>) -> Self {
        self.combine = Some(Box::new(move |setup| Ok(Box::new(combine(setup)?))));
        self
    }

    /// With another format of the input than lines, unless the user asks for one.
    #[must_use]
    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// With a parameter, `--param NAME=...`, and what it is for.
    #[must_use]
    pub fn param(mut self, name: &'static str, about: &'static str) -> Self {
        self.params.push((name, about));
        self
    }

    /// Keys are spread by ranges, found by sampling: the outputs one after the other are in order.
    #[must_use]
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self
    }

    /// With a fixed number of reduces.
    #[must_use]
    pub fn reducers(mut self, reducers: u32) -> Self {
        self.reducers = Some(reducers);
        self
    }

    /// The name on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }
}
