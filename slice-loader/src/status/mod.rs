//! The status hooks: what the node says of itself to the slices.
//!
//! ```text
//!  a slice                     nobody's process            the daemon
//!  /run/slice/status.sock ──── http, route, quota ──────── answers
//!                              parses; has no right        applies the grants
//! ```
//!
//! Each slice that has a context has a listener of its own, which is its
//! identity: what a request says of who it is does not matter. The daemon makes
//! the listeners and keeps them; a process without any right (`front`) takes
//! connections and parses what slices write. What it understood it asks the
//! daemon as a typed question ([`wire::Ask`]) in the slice's name.

pub mod answers; // what a slice is told
pub mod confine; // giving up every right
pub mod control; // slices that make slices
pub mod daemon; // the daemon's side
pub mod documents; // the documents of /v1
pub mod front; // the process that parses
pub mod history; // averages over minutes
pub mod host; // whether a request names this machine
pub mod hour; // what went out on links in the last hour
pub mod http; // one connection of a slice
pub mod looking; // who sent what to whom, page by page
pub mod negotiate; // forms and tags of answers
pub mod openmetrics; // the rows as OpenMetrics
pub mod page; // what a browser shows
pub mod pages; // as many rows as fit
pub mod parameters; // what requests may say
pub mod problem; // why there is no answer
pub mod quota; // how much a slice may ask
pub mod room; // memory for what is being told
pub mod route; // from a request to a question
pub mod slicestat; // the table of PlanetLab's monitors
pub mod sockets; // the listeners of all slices
pub mod source; // the node, read at most once a second
pub mod stream; // events, for as long as they are read
pub mod wire; // what the two processes say to each other

#[cfg(test)]
pub(crate) mod fixture; // a node of three slices, and its real router
#[cfg(test)]
mod openapi; // the document that describes all this
