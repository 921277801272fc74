//! Which person is which track: the pairs of greatest gain together.

/// A row and a column that may become a pair, and what that is worth, above 0.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub row: usize,
    pub column: usize,
    pub gain: f64,
}

/// Pairs, by rows, such that no row and no column has two and the sum of gains is the greatest possible. Candidates come in the
/// order of their rows.
///
/// Candidates without a connection are solved apart: a crowd falls into many small groups.
///
/// # Panics
/// If a candidate's row or column is out of range.
pub fn assign(rows: usize, columns: usize, candidates: &[Candidate]) -> Vec<(usize, usize)> {
    debug_assert!(candidates.is_sorted_by_key(|c| c.row));
    let mut groups = Groups::new(rows + columns);
    candidates.iter().for_each(|c| groups.join(c.row, rows + c.column));
    // Rows with candidates: group, row, the row's part of the candidates.
    let mut by_group: Vec<(usize, &[Candidate])> =
        candidates.chunk_by(|a, b| a.row == b.row).map(|row| (groups.first(row[0].row), row)).collect();
    by_group.sort_by_key(|&(group, row)| (group, row[0].row));
    let mut places = vec![NONE; columns];
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for group in by_group.chunk_by(|a, b| a.0 == b.0) {
        solve_group(group, &mut places, &mut pairs);
    }
    pairs.sort_unstable();
    pairs
}

/// No row or column.
const NONE: usize = usize::MAX;

/// Sets of nodes that are connected.
struct Groups(Vec<usize>);

impl Groups {
    fn new(nodes: usize) -> Groups {
        Groups((0..nodes).collect())
    }

    /// The node that stands for a node's set.
    fn first(&mut self, mut node: usize) -> usize {
        while self.0[node] != node {
            self.0[node] = self.0[self.0[node]];
            node = self.0[node];
        }
        node
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.first(a), self.first(b));
        self.0[a.max(b)] = a.min(b);
    }
}

/// Solves the candidates of one group, by rows, as a dense problem. `places` are `NONE` before and after.
fn solve_group(group: &[(usize, &[Candidate])], places: &mut [usize], pairs: &mut Vec<(usize, usize)>) {
    if let [(_, [only])] = group {
        pairs.push((only.row, only.column));
        return;
    }
    let all = || group.iter().flat_map(|(_, row)| *row);
    let mut columns = Vec::new();
    for c in all() {
        if places[c.column] == NONE {
            places[c.column] = 0;
            columns.push(c.column);
        }
    }
    columns.sort_unstable();
    columns.iter().enumerate().for_each(|(place, &column)| places[column] = place);
    // The method wants no more rows than columns: else rows and columns change their roles.
    let flip = group.len() > columns.len();
    let (few, many) = if flip { (columns.len(), group.len()) } else { (group.len(), columns.len()) };
    let mut costs = vec![0.0; few * many];
    for (i, (_, row)) in group.iter().enumerate() {
        for c in *row {
            let j = places[c.column];
            costs[if flip { j * many + i } else { i * many + j }] = -c.gain;
        }
    }
    for (i, j) in hungarian(few, many, &costs).into_iter().enumerate() {
        if costs[i * many + j] < 0.0 {
            let (row, column) = if flip { (j, i) } else { (i, j) };
            pairs.push((group[row].1[0].row, columns[column]));
        }
    }
    columns.iter().for_each(|&column| places[column] = NONE);
}

/// The column of each row with the least sum of costs: the Hungarian method by shortest augmenting paths (Jonker and
/// Volgenant). There are no more rows than columns.
fn hungarian(rows: usize, columns: usize, costs: &[f64]) -> Vec<usize> {
    let (mut row_price, mut column_price) = (vec![0.0; rows], vec![0.0; columns]);
    let mut row_of = vec![NONE; columns];
    // `from[j]` is the column whose row is left towards j. Columns that a path has reached for good are `settled`, in that order.
    let (mut distance, mut from) = (vec![0.0; columns], vec![NONE; columns]);
    let mut is_settled = vec![false; columns];
    let mut settled = Vec::with_capacity(columns);
    for start in 0..rows {
        // Dijkstra's algorithm from this row to a free column.
        distance.fill(f64::INFINITY);
        is_settled.fill(false);
        settled.clear();
        let (mut row, mut column, mut reached) = (start, NONE, 0.0);
        let free = loop {
            let so_far = reached - row_price[row];
            let (mut nearest, mut least) = (NONE, f64::INFINITY);
            let costs = &costs[row * columns..][..columns];
            for j in (0..columns).filter(|&j| !is_settled[j]) {
                let d = so_far + costs[j] - column_price[j];
                if d < distance[j] {
                    (distance[j], from[j]) = (d, column);
                }
                if distance[j] < least {
                    (nearest, least) = (j, distance[j]);
                }
            }
            assert!(nearest != NONE, "as many columns as rows, and finite costs");
            (column, reached) = (nearest, least);
            is_settled[column] = true;
            settled.push(column);
            if row_of[column] == NONE {
                break column;
            }
            row = row_of[column];
        };
        // Prices change so that no cost along the path is left to pay.
        row_price[start] += reached;
        for &j in &settled {
            if row_of[j] != NONE {
                row_price[row_of[j]] += reached - distance[j];
            }
            column_price[j] -= reached - distance[j];
        }
        let mut j = free;
        while from[j] != NONE {
            row_of[j] = row_of[from[j]];
            j = from[j];
        }
        row_of[j] = start;
    }
    let mut chosen = vec![NONE; rows];
    for (j, &i) in row_of.iter().enumerate().filter(|&(_, &i)| i != NONE) {
        chosen[i] = j;
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The greatest sum by trying everything.
    fn best(rows: usize, columns: usize, gains: &[Vec<f64>], used: u32, row: usize) -> f64 {
        if row == rows {
            return 0.0;
        }
        let with = (0..columns)
            .filter(|j| used >> j & 1 == 0 && gains[row][*j] > 0.0)
            .map(|j| gains[row][j] + best(rows, columns, gains, used | 1 << j, row + 1));
        with.fold(best(rows, columns, gains, used, row + 1), f64::max)
    }

    proptest! {
        #[test]
        fn no_other_pairs_are_worth_more(
            rows in 0usize..6,
            columns in 0usize..6,
            // A third of the pairs are none; few values, so that ties occur.
            values in prop::collection::vec(prop_oneof![Just(0.0), 0.0..1.0f64, (0u8..4).prop_map(|v| v as f64 / 4.0)], 36),
        ) {
            let gains: Vec<Vec<f64>> = values.chunks(6).map(<[f64]>::to_vec).collect();
            let mut candidates = Vec::new();
            for (row, gains) in gains.iter().enumerate().take(rows) {
                let pairs = gains.iter().enumerate().take(columns).filter(|(_, gain)| **gain > 0.0);
                candidates.extend(pairs.map(|(column, &gain)| Candidate { row, column, gain }));
            }
            let pairs = assign(rows, columns, &candidates);
            for (i, a) in pairs.iter().enumerate() {
                prop_assert!(gains[a.0][a.1] > 0.0);
                prop_assert!(pairs[..i].iter().all(|b| b.0 != a.0 && b.1 != a.1));
            }
            let sum: f64 = pairs.iter().map(|&(i, j)| gains[i][j]).sum();
            let expected = best(rows, columns, &gains, 0, 0);
            prop_assert!((sum - expected).abs() < 1e-12, "{sum} {expected}");
        }
    }

    /// A crowd in which everybody may be everybody: no pair of pairs is better the other way round, and no chain of three.
    #[test]
    fn a_dense_group_is_solved_whichever_way_it_lies() {
        for (rows, columns) in [(60, 60), (40, 70), (70, 40)] {
            let gain = |i: usize, j: usize| ((i * 131 + j * 71) % 257 + (i * j) % 83) as f64 / 340.0 + 0.01;
            let candidates: Vec<Candidate> = (0..rows * columns)
                .map(|n| (n / columns, n % columns))
                .map(|(row, column)| Candidate { row, column, gain: gain(row, column) })
                .collect();
            let pairs = assign(rows, columns, &candidates);
            assert_eq!(pairs.len(), rows.min(columns));
            let of = |a: (usize, usize), b: (usize, usize)| gain(a.0, b.1) - gain(a.0, a.1);
            for &a in &pairs {
                for &b in &pairs {
                    assert!(of(a, b) + of(b, a) < 1e-12);
                    assert!(pairs.iter().all(|&c| of(a, b) + of(b, c) + of(c, a) < 1e-12));
                }
            }
        }
    }

    #[test]
    fn two_rows_for_one_column() {
        let candidates = [0.3, 0.5].iter().enumerate().map(|(row, &gain)| Candidate { row, column: 4, gain });
        assert_eq!(assign(2, 5, &candidates.collect::<Vec<_>>()), [(1, 4)]);
        assert!(assign(0, 0, &[]).is_empty());
    }
}
