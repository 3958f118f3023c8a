//! fanwire
#![allow(missing_docs, reason = "temp")]
pub mod auth;
pub mod base;
pub mod broker;
pub mod config;
pub mod dialect;
pub mod http;
pub mod shard;
pub mod ws;
