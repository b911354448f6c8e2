//! One fault: what is done, for how long it stays, and how it is undone.

use std::time::Duration;

use anyhow::Result;

/// Something done to a fleet of type `W`.
pub(super) struct Fault<W> {
    /// Of the row.
    pub(super) name: String,
    /// From the injection's end to the repair's beginning.
    pub(super) hold: Duration,
    /// Whether clients go to the other edge meanwhile.
    pub(super) takes_an_edge_away: bool,
    inject: Action<W>,
    repair: Action<W>,
}

type Action<W> = Box<dyn FnMut(&mut W) -> Result<()>>;

impl<W> Fault<W> {
    /// What `inject` does stays for `hold`; without [`Self::repaired_by`] there is nothing to repair.
    pub(super) fn new(
        name: impl Into<String>,
        hold: Duration,
        inject: impl FnMut(&mut W) -> Result<()> + 'static,
    ) -> Self {
        let (inject, repair) = (Box::new(inject), Box::new(|_: &mut W| Ok(())));
        Self { name: name.into(), hold, takes_an_edge_away: false, inject, repair }
    }

    /// It takes an edge away, or its address.
    pub(super) fn taking_an_edge_away(mut self) -> Self {
        self.takes_an_edge_away = true;
        self
    }

    /// How it is undone. When that returns, the fleet is whole again.
    pub(super) fn repaired_by(mut self, repair: impl FnMut(&mut W) -> Result<()> + 'static) -> Self {
        self.repair = Box::new(repair);
        self
    }

    pub(super) fn inject(&mut self, world: &mut W) -> Result<()> {
        (self.inject)(world)
    }

    pub(super) fn repair(&mut self, world: &mut W) -> Result<()> {
        (self.repair)(world)
    }
}
