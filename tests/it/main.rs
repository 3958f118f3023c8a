//! Does a running server keep its promises to real sockets?

mod bad_input;
mod bad_tokens;
mod conversation;
mod fanout;
mod harness;
mod http;
mod process;
mod regression;
