//! Placeholder until the engine is merged.
use crate::json::Object;
/// f
#[derive(Debug)]
pub struct Filter;
/// g
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupIndex(u32);
/// i
#[derive(Debug, Default)]
pub struct FilterIndex;
impl Filter {
    /// p
    pub fn parse(_: &Object<'_>) -> Result<Option<Self>, ()> {
        Ok(None)
    }
}
impl FilterIndex {
    /// f
    pub fn find(&self, _: &Filter) -> Option<GroupIndex> {
        None
    }
    /// i
    pub fn insert(&mut self, _: Filter) -> GroupIndex {
        GroupIndex(0)
    }
    /// r
    pub fn remove(&mut self, _: GroupIndex) {}
    /// e
    pub fn is_empty(&self) -> bool {
        true
    }
    /// m
    pub fn matches(&mut self, _: &Object<'_>, _: &mut Vec<GroupIndex>) -> u64 {
        0
    }
}
