//! Drafts of cards for files that exporters wrote: what a network's inputs are, which path it
//! belongs to, and where each value comes from; and drafts of configs for cards (`config_text`).
//!
//! A draft is made from facts alone (the ports of graphs, the contents of JSON files), so that it
//! is a pure function of them. The kinds of files are listed in [`DraftKind`]: `bare` drafts cards
//! for single graphs by the conventions of the package that trained them, and `diffusers` drafts
//! cards for folders in the layout of diffusers, whose scheduler is read in `scheduler`. `roles`
//! finds which port of a graph has which role. `card_text` holds the draft and writes it as YAML.

mod bare;
mod card_text;
mod config_text;
mod diffusers;
mod graph_facts;
mod json_file;
mod kind;
mod network_block;
mod roles;
mod scheduler;
#[cfg(test)]
mod tests;

pub(crate) use bare::draft_bare_graph;
pub(crate) use card_text::CardDraft;
pub(crate) use config_text::{ConfigFacts, draft_config};
pub(crate) use diffusers::{PipelineFacts, draft_pipeline};
pub(crate) use graph_facts::GraphFacts;
pub(crate) use kind::DraftKind;
pub(crate) use roles::GivenFacts;
