//! A map whose changes can be taken back: what a branch of a graph adds is seen until the branch ends.
//!
//! Leaving costs as much as was changed since entering, however large the map is.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

pub struct ScopedMap<K, V> {
    entries: HashMap<K, V>,
    /// What each change replaced, in order, while a scope is open.
    changes: Vec<(K, Option<V>)>,
    open: usize,
}

/// Where the changes of a scope begin.
pub struct Mark(usize);

impl<K, V> Default for ScopedMap<K, V> {
    fn default() -> Self {
        ScopedMap {
            entries: HashMap::new(),
            changes: Vec::new(),
            open: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, V> ScopedMap<K, V> {
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key)
    }

    pub fn insert(&mut self, key: K, value: V) {
        if self.open == 0 {
            self.entries.insert(key, value);
            return;
        }
        let replaced = self.entries.insert(key.clone(), value);
        self.changes.push((key, replaced));
    }

    pub fn insert_if_absent(&mut self, key: K, value: V) {
        if !self.entries.contains_key(&key) {
            self.insert(key, value);
        }
    }

    pub fn enter(&mut self) -> Mark {
        self.open += 1;
        Mark(self.changes.len())
    }

    /// Takes back what was changed since the scope was entered; scopes end in the reverse order of their beginning.
    pub fn leave(&mut self, Mark(start): Mark) {
        self.open = self.open.saturating_sub(1);
        for (key, replaced) in self.changes.split_off(start).into_iter().rev() {
            match replaced {
                Some(value) => drop(self.entries.insert(key, value)),
                None => drop(self.entries.remove(&key)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_scope_changes_is_taken_back_when_it_ends() {
        let mut map = ScopedMap::default();
        map.insert("a", 1);
        let outer = map.enter();
        map.insert("a", 2);
        map.insert("b", 3);
        let inner = map.enter();
        map.insert("b", 4);
        map.insert("a", 5);
        map.insert("a", 6);
        map.insert_if_absent("c", 7);
        map.insert_if_absent("a", 8);
        assert_eq!(
            [map.get("a"), map.get("b"), map.get("c")],
            [Some(&6), Some(&4), Some(&7)]
        );
        map.leave(inner);
        assert_eq!(
            [map.get("a"), map.get("b"), map.get("c")],
            [Some(&2), Some(&3), None]
        );
        map.leave(outer);
        assert_eq!(
            [map.get("a"), map.get("b"), map.get("c")],
            [Some(&1), None, None]
        );
        map.insert("b", 9);
        assert_eq!(map.get("b"), Some(&9));
    }
}
