//! fanwire
#![allow(missing_docs, reason = "temp")]
pub mod base;
pub mod http;
pub mod ws;
pub mod auth;
