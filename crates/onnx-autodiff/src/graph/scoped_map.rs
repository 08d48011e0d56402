//! A map whose changes can be undone: entries that a subgraph adds are visible until the subgraph
//! ends.
//!
//! To leave a scope costs as much as was changed in it, however large the map is.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// A map that undoes the changes of a scope when the scope ends.
pub(super) struct ScopedMap<K, V> {
    entries: HashMap<K, V>,
    /// What each change of the open scopes replaced, in order.
    changes: Vec<(K, Option<V>)>,
    open: usize,
}

/// The number of changes before a scope began.
pub(super) struct Mark(usize);

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
    /// Returns the value of a key.
    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key)
    }

    /// Sets the value of a key.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.open == 0 {
            self.entries.insert(key, value);
            return;
        }
        let replaced = self.entries.insert(key.clone(), value);
        self.changes.push((key, replaced));
    }

    /// Sets the value of a key that has none.
    pub(super) fn insert_if_absent(&mut self, key: K, value: V) {
        if !self.entries.contains_key(&key) {
            self.insert(key, value);
        }
    }

    /// Begins a scope.
    pub(super) fn enter(&mut self) -> Mark {
        self.open += 1;
        Mark(self.changes.len())
    }

    /// Ends a scope and undoes its changes. Scopes must end in the reverse order of their
    /// beginning.
    pub(super) fn leave(&mut self, Mark(start): Mark) {
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
