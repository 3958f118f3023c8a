//! The paths of all filters as a tree of names, traversed together with a publication.
//!
//! ```text
//!  path a.b.c       root ── "a.b.c" ─▶ path          the whole rest as one key,
//!                     └──── "a" ──▶ node ── "b.c" ─▶ path      at each level,
//!                                    └───── "b" ──▶ node ── "c" ─▶ path
//! ```
//!
//! The position of a node and the rest of the path determine the path, so an edge leads to at most
//! one path.

use super::term_index::PathIndex;
use super::u32_key;
use crate::json::{Members, Value};
use slab::Slab;
use std::collections::HashMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct NodeIndex(u32);

/// The first entry of the table, which is never removed.
const ROOT: NodeIndex = NodeIndex(0);

#[derive(Debug)]
pub(super) struct Trie {
    nodes: Slab<Node>,
    /// Publications traversed so far; marks of earlier ones are stale and need not be cleared.
    walks: u64,
}

/// The names that filters use inside one object; only the root may have none.
#[derive(Debug, Default)]
struct Node {
    edges: HashMap<Box<str>, Edge>,
}

/// What a name leads to: a path that ends with it, names below it, or both.
#[derive(Debug, Default)]
struct Edge {
    path: Option<PathIndex>,
    child: Option<NodeIndex>,
    /// The last walk that found the name, and the index of its hit.
    walk: u64,
    hit: usize,
}

/// A member of the publication whose name is in some filter.
#[derive(Clone, Copy, Debug)]
struct Hit<'a> {
    path: Option<PathIndex>,
    child: Option<NodeIndex>,
    value: Value<'a>,
}

impl Default for Trie {
    fn default() -> Self {
        let mut nodes = Slab::new();
        let root = NodeIndex(u32_key(nodes.insert(Node::default())));
        assert_eq!(root, ROOT, "a new table begins at zero");
        Self { nodes, walks: 0 }
    }
}

impl Trie {
    /// Calls `resolved` for each path that the publication has. If a path can be resolved in two
    /// ways, the shallower one comes first and counts.
    pub(super) fn walk<'a>(
        &mut self,
        publication: Members<'a>,
        mut resolved: impl FnMut(PathIndex, Value<'a>),
    ) {
        self.walks += 1;
        // A queue, so that all hits of one level come before those of the next.
        let mut hits = Vec::new();
        self.scan(ROOT, publication, &mut hits);
        let mut next = 0;
        while let Some(hit) = hits.get(next).copied() {
            next += 1;
            if let Some(path) = hit.path {
                resolved(path, hit.value);
            }
            if let (Some(child), Some(object)) = (hit.child, hit.value.object()) {
                self.scan(child, object.members(), &mut hits);
            }
        }
    }

    /// Appends the members whose names `node` has. A node is scanned once per walk, because the
    /// edge to it is hit once.
    fn scan<'a>(&mut self, node: NodeIndex, members: Members<'a>, hits: &mut Vec<Hit<'a>>) {
        let walk = self.walks;
        let node = &mut self.nodes[node.0 as usize];
        for (name, value) in members {
            let Some(edge) = name.unescaped().and_then(|name| node.edges.get_mut(&*name)) else {
                continue;
            };
            if edge.walk == walk {
                // Of repeated members the last one counts; none has been followed yet.
                hits[edge.hit].value = value;
                continue;
            }
            edge.walk = walk;
            edge.hit = hits.len();
            hits.push(Hit {
                path: edge.path,
                child: edge.child,
                value,
            });
        }
    }

    /// The path of this name.
    pub(super) fn find(&self, name: &str) -> Option<PathIndex> {
        self.nodes[ROOT.0 as usize].edges.get(name)?.path
    }

    /// Adds the path of this name, which must be new.
    pub(super) fn insert(&mut self, name: &str, path: PathIndex) {
        let (mut node, mut rest) = (ROOT, name);
        loop {
            let earlier = self.edge(node, rest).path.replace(path);
            assert!(earlier.is_none(), "a path is inserted once");
            let Some((part, after)) = rest.split_once('.') else {
                return;
            };
            let child = match self.edge(node, part).child {
                Some(child) => child,
                None => {
                    let child = NodeIndex(u32_key(self.nodes.insert(Node::default())));
                    self.edge(node, part).child = Some(child);
                    child
                }
            };
            (node, rest) = (child, after);
        }
    }

    /// Removes the path of this name, with the nodes and names that lead only to it.
    pub(super) fn remove(&mut self, name: &str) {
        let mut way = Vec::new();
        let (mut node, mut rest) = (ROOT, name);
        loop {
            self.edge(node, rest).path = None;
            self.prune(node, rest);
            let Some((part, after)) = rest.split_once('.') else {
                break;
            };
            way.push((node, part));
            let child = self.edge(node, part).child;
            (node, rest) = (child.expect("insert made every node on the way"), after);
        }
        for (node, part) in way.into_iter().rev() {
            let child = self.edge(node, part).child;
            let child = child.expect("nodes are removed after what is below them");
            if self.nodes[child.0 as usize].edges.is_empty() {
                self.nodes.remove(child.0 as usize);
                self.edge(node, part).child = None;
                self.prune(node, part);
            }
        }
    }

    /// The edge of this name, created if there is none.
    fn edge(&mut self, node: NodeIndex, name: &str) -> &mut Edge {
        let edges = &mut self.nodes[node.0 as usize].edges;
        edges.entry(name.into()).or_default()
    }

    /// Removes the edge of this name if it leads nowhere.
    fn prune(&mut self, node: NodeIndex, name: &str) {
        let edges = &mut self.nodes[node.0 as usize].edges;
        if edges
            .get(name)
            .is_some_and(|edge| edge.path.is_none() && edge.child.is_none())
        {
            edges.remove(name);
        }
    }

    /// Nodes and edges in the tree.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        let edges = self.nodes.iter().map(|(_, node)| node.edges.len()).sum();
        (self.nodes.len(), edges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Document;

    #[test]
    fn removal_leaves_only_what_others_need() {
        let names = ["a", "a.b", "a.b.c", "a..b", ".", "", "x.y.z", "x.y"];
        for first in 0..names.len() {
            let mut trie = Trie::default();
            let mut counts = vec![trie.counts()];
            let mut rotated = names;
            rotated.rotate_left(first);
            for (index, name) in rotated.iter().enumerate() {
                trie.insert(name, PathIndex(u32::try_from(index).unwrap()));
                counts.push(trie.counts());
            }
            for name in rotated.iter().rev() {
                counts.pop();
                trie.remove(name);
                assert_eq!(Some(&trie.counts()), counts.last(), "{name}");
                assert_eq!(trie.find(name), None);
            }
            assert_eq!(trie.counts(), (1, 0));
        }
    }

    #[test]
    fn removal_in_order_of_insertion_leaves_nothing() {
        let names = ["a.b", "a.b.c", "a", "a.b.d"];
        let mut trie = Trie::default();
        for (index, name) in names.iter().enumerate() {
            trie.insert(name, PathIndex(u32::try_from(index).unwrap()));
        }
        for name in names {
            assert!(trie.find(name).is_some());
            trie.remove(name);
        }
        assert_eq!(trie.counts(), (1, 0));
    }

    #[test]
    fn the_shallower_way_is_told_first() {
        let mut trie = Trie::default();
        trie.insert("a.b.c", PathIndex(7));
        let text = r#"{"a":{"b":{"c":3},"b.c":2},"a.b.c":1,"other":{"c":4}}"#;
        let document = Document::new(text);
        let mut matched = Vec::new();
        trie.walk(document.object().unwrap().members(), |path, value| {
            matched.push((path, value.raw()));
        });
        assert_eq!(
            matched,
            ["1", "2", "3"].map(|number| (PathIndex(7), number))
        );
    }
}
