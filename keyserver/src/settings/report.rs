//! What a configuration means, for a person.

use std::collections::BTreeMap;
use std::fmt;

use super::{Settings, Tickets};

/// What was found, a line each, for a person.
#[derive(Debug)]
pub struct Report<'s>(&'s Settings);

impl Settings {
    /// What was found.
    pub fn report(&self) -> Report<'_> {
        Report(self)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for key in &self.0.keys {
            let schemes: Vec<_> = key.identity().schemes().iter().map(ToString::to_string).collect();
            let kind = key.identity().public_key().kind();
            writeln!(f, "key {}: {kind:?}, {}, id {}", key.name(), schemes.join(" "), key.key_id())?;
        }
        for edge in &self.0.config.edge {
            let revoked = if edge.revoked { "revoked; " } else { "" };
            writeln!(f, "edge {}: {revoked}{}", edge.id, edge.rights())?;
        }
        self.tickets(f)?;
        self.audit(f)?;
        if let Some(warning) = self.0.channel.warning() {
            writeln!(f, "warning: {warning}")?;
        }
        for warning in &self.0.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        writeln!(f, "the configuration is good")
    }
}

impl Report<'_> {
    fn audit(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.audit {
            Some(audit) => {
                let (directory, key) = (audit.directory.display(), audit.signing_key.public());
                writeln!(f, "audit: on, log in {directory}, signed with the key {key}")
            }
            None => writeln!(f, "audit: off, since there is no [audit]"),
        }
    }

    fn tickets(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Tickets { state, ratchet }) = &self.0.tickets else {
            return writeln!(f, "tickets: off, since there is no [tickets]");
        };
        let (state, generation) = (state.display(), ratchet.generation());
        let period = humantime::format_duration(ratchet.period().length());
        writeln!(f, "tickets: on, secret in {state}, generation {generation}, a rotation each {period}")?;
        let mut groups: BTreeMap<_, (usize, usize)> = BTreeMap::new();
        for edge in &self.0.config.edge {
            let (members, revoked) = groups.entry(&edge.ticket_group).or_default();
            *(if edge.revoked { revoked } else { members }) += 1;
        }
        for (group, (members, revoked)) in groups {
            writeln!(f, "ticket group {group}: {members} edges, {revoked} revoked")?;
        }
        Ok(())
    }
}
