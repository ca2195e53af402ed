//! From what a walk found to records in the order of the set.

use std::collections::BTreeSet;
use std::io::{Result, Write};
use std::ops::Range;
use std::path::Path;

use image::ImageFormat;

use crate::data::decode::depth::Depth;
use crate::data::folder::index::digest::NameDigest;
use crate::data::folder::index::found::kind;
use crate::data::folder::index::name::name_of;
use crate::data::folder::index::record::{Folder, ImageRecord, NONE};
use crate::data::folder::index::table::{Bytes, Facts, LeftOut, Lengths, Table};
use crate::data::folder::index::walk::Node;
use crate::error::printable;

/// The records of some folders, about to be written.
pub(super) struct Build<'a> {
    nodes: &'a [Node],
    /// The nodes in the order of their numbers.
    folders: Vec<usize>,
    /// Of each node, its number.
    numbers: Vec<u32>,
    /// Of each node, the one whose name is the class of its images.
    classes: Vec<Option<usize>>,
    /// Images of nodes, in the order of all.
    runs: Vec<(usize, Range<usize>)>,
    pub facts: Facts,
}

impl<'a> Build<'a> {
    /// That of nodes, each behind its parent.
    pub fn new(nodes: &'a [Node], facts: Facts) -> Self {
        let mut build = Self {
            nodes,
            folders: Vec::with_capacity(nodes.len()),
            numbers: vec![NONE; nodes.len()],
            classes: class_nodes(nodes),
            runs: Vec::new(),
            facts,
        };
        for root in (0..nodes.len()).filter(|node| nodes[*node].parent.is_none()) {
            build.visit(root);
        }
        build.collect_facts();
        build
    }

    /// Numbers the folders and lists the images, each folder's between those of the folders in it, by name.
    fn visit(&mut self, root: usize) {
        // node, next of its children, next of its images
        let mut open = vec![(root, 0, 0)];
        self.enter(root);
        while let Some((node, child, image)) = open.pop() {
            let images = self.nodes[node].images.len();
            match self.nodes[node].children.get(child) {
                Some(&(place, inner)) => {
                    self.runs.push((node, image..place));
                    open.push((node, child + 1, place));
                    self.enter(inner);
                    open.push((inner, 0, 0));
                }
                None => self.runs.push((node, image..images)),
            }
        }
    }

    fn enter(&mut self, node: usize) {
        self.numbers[node] = self.folders.len() as u32;
        self.folders.push(node);
    }

    fn collect_facts(&mut self) {
        let mut digest = NameDigest::default();
        let (mut chain, mut kinds) = (Vec::new(), Vec::<(ImageFormat, usize)>::new());
        for (node, run) in &self.runs {
            chain.clear();
            let mut at = *node;
            while let Some(parent) = self.nodes[at].parent {
                chain.push(self.nodes[at].name.as_encoded_bytes());
                at = parent;
            }
            let folders = chain.iter().rev().copied();
            for image in run.clone() {
                let name = Path::new(name_of(self.nodes[*node].name_of(image)));
                digest.add(folders.clone(), name);
                let header = self.nodes[*node].images[image].header;
                let facts = &mut self.facts;
                if let Some(unused) = header.unused {
                    *facts.unused.entry(unused).or_default() += 1;
                }
                facts.deep += usize::from(header.depth != Depth::Bits8);
                facts.unlabeled += usize::from(self.classes[*node].is_none());
                match kinds
                    .iter_mut()
                    .find(|(format, _)| *format == header.format)
                {
                    Some((_, count)) => *count += 1,
                    None => kinds.push((header.format, 1)),
                }
            }
        }
        let kinds = kinds.into_iter();
        self.facts.kinds = kinds.map(|(format, count)| (kind(format), count)).collect();
        self.facts.fingerprint = digest.finish();
        for node in &self.folders {
            let number = self.numbers[*node];
            let tools = self.nodes[*node].tools.iter();
            self.facts
                .tools
                .extend(tools.map(|name| (number, name.clone())));
            let left_out = self.nodes[*node].left_out.iter();
            self.facts.left_out.extend(left_out.map(|one| LeftOut {
                folder: number,
                ..one.clone()
            }));
        }
        let names = self.class_names();
        self.facts.classes = names.into_iter().map(printable_bytes).collect();
    }

    /// Names of the classes that have an image, sorted by their bytes.
    fn class_names(&self) -> Vec<&'a [u8]> {
        let nodes: &'a [Node] = self.nodes;
        let used = self.runs.iter().filter(|(_, run)| !run.is_empty());
        let used = used.filter_map(|(node, _)| self.classes[*node]);
        let names: BTreeSet<&[u8]> = used
            .map(|class| nodes[class].name.as_encoded_bytes())
            .collect();
        names.into_iter().collect()
    }

    /// Names of images and folders.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let images = |node: &'a Node| (0..node.images.len()).map(|at| node.name_of(at));
        let folders = self.nodes.iter().map(|node| node.name.as_encoded_bytes());
        self.nodes.iter().flat_map(images).chain(folders)
    }

    pub fn lengths(&self) -> Lengths {
        Lengths {
            images: self.nodes.iter().map(|node| node.images.len()).sum(),
            folders: self.nodes.len(),
            names: self.nodes.iter().map(|node| node.names.len()).sum(),
            folder_names: self.nodes.iter().map(|node| node.name.len()).sum(),
        }
    }

    /// Records of images and folders, names of images and folders.
    pub fn write(&self, to: &mut impl Write) -> Result<()> {
        let mut name_end = 0;
        for (node, run) in &self.runs {
            for image in run.clone() {
                name_end += self.nodes[*node].name_of(image).len() as u64;
                let image = ImageRecord {
                    name_end,
                    folder: self.numbers[*node],
                    ..self.nodes[*node].images[image]
                };
                let odd = || std::io::Error::other("a kind of image without a number");
                to.write_all(&image.to_bytes().ok_or_else(odd)?)?;
            }
        }
        let classes = self.class_names();
        let mut name_end = 0;
        for node in &self.folders {
            let Node {
                name,
                modified,
                identity,
                others,
                parent,
                ..
            } = &self.nodes[*node];
            name_end += name.len() as u64;
            let class = self.classes[*node].map(|class| self.nodes[class].name.as_encoded_bytes());
            let label = class.and_then(|class| classes.binary_search(&class).ok());
            let folder = Folder {
                name_end,
                modified: *modified,
                identity: *identity,
                parent: parent.map_or(NONE, |parent| self.numbers[parent]),
                label: label.map_or(NONE, |label| label as u32),
                others: *others,
            };
            to.write_all(&folder.to_bytes())?;
        }
        for (node, run) in &self.runs {
            to.write_all(self.nodes[*node].names_of(run.clone()))?;
        }
        for node in &self.folders {
            to.write_all(self.nodes[*node].name.as_encoded_bytes())?;
        }
        Ok(())
    }

    /// In memory.
    pub fn table(self) -> Result<Table> {
        let lengths = self.lengths();
        let mut bytes = Vec::with_capacity(lengths.bytes().unwrap_or(0));
        self.write(&mut bytes)?;
        Ok(Table::new(Bytes::Owned(bytes), lengths, self.facts))
    }
}

/// Of each node, the one whose name is the class of its images: the folder of the first level, or of the second below parts
/// such as `train`.
fn class_nodes(nodes: &[Node]) -> Vec<Option<usize>> {
    let mut classes: Vec<Option<usize>> = Vec::with_capacity(nodes.len());
    // how many folders deep each is, and at which depth its classes are
    let mut depths: Vec<(usize, Option<usize>)> = Vec::with_capacity(nodes.len());
    for (number, node) in nodes.iter().enumerate() {
        let (depth, class_depth) = match node.parent {
            None => (0, node.class_depth),
            Some(parent) => (depths[parent].0 + 1, depths[parent].1),
        };
        depths.push((depth, class_depth));
        classes.push(match (class_depth, node.parent) {
            (Some(at), Some(_)) if depth == at + 1 => Some(number),
            (Some(_), Some(parent)) => classes[parent],
            _ => None,
        });
    }
    classes
}

fn printable_bytes(name: &[u8]) -> String {
    printable(name_of(name))
}
