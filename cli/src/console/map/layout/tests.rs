use super::*;

/// Returns the crossings of the lines as they are drawn.
fn drawn_crossings(layout: &Layout, lines: &[(usize, usize)]) -> usize {
    let place = |(left, right): &(usize, usize)| (layout.left[*left].unwrap(), layout.right[*right].unwrap());
    let crosses = |one: &(usize, usize), other: &(usize, usize)| {
        let (one, other) = (place(one), place(other));
        (one.0 < other.0 && one.1 > other.1) || (one.0 > other.0 && one.1 < other.1)
    };
    let pairs = lines
        .iter()
        .enumerate()
        .flat_map(|(at, one)| lines[at + 1..].iter().map(move |other| (one, other)));
    pairs.filter(|(one, other)| crosses(one, other)).count()
}

/// Asserts that the placed nodes of a column do not overlap and are inside of the drawing.
fn assert_apart(places: &[Option<u32>], height: u32) {
    let mut placed: Vec<_> = places.iter().copied().flatten().collect();
    placed.sort_unstable();
    assert!(
        placed.windows(2).all(|pair| pair[1] - pair[0] >= ROW - 1),
        "{placed:?}"
    );
    assert!(placed.first().is_none_or(|first| *first >= ROW / 2));
    assert!(placed.last().is_none_or(|last| *last <= height - ROW / 2));
}

/// Lines of a workspace: server `s` gets `each` secrets, which are spread over all of them.
fn scattered(secrets: usize, servers: usize, each: usize) -> Vec<(usize, usize)> {
    let lines = (0..servers)
        .flat_map(|server| (0..each).map(move |nth| ((server * 37 + nth * 61) % secrets, server)));
    let mut lines: Vec<_> = lines.collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

#[test]
fn lines_that_need_not_cross_do_not_cross() {
    for lines in [
        vec![(0, 2), (1, 1), (2, 0)],
        vec![(0, 2), (1, 2), (2, 0), (3, 0), (4, 1), (0, 1)],
        vec![(0, 0), (0, 1), (0, 2), (1, 3)],
    ] {
        let layout = Layout::of(5, 4, &lines);
        assert_eq!(drawn_crossings(&layout, &lines), 0, "{lines:?} {layout:?}");
    }
}

#[test]
fn the_order_removes_most_crossings_of_a_large_workspace() {
    // 50 servers get 4 neighbouring secrets each, and the names do not tell which.
    let lines: Vec<_> = (0..50)
        .flat_map(|server| (0..4).map(move |nth| ((server * 4 + nth) * 77 % 200, (server * 21) % 50)))
        .collect();
    let alphabetical = {
        let (left, right) = ((0..200).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
        crossings(&left, &right, &lines)
    };
    let layout = Layout::of(200, 50, &lines);
    assert!(alphabetical > 5_000, "{alphabetical}");
    assert_eq!(drawn_crossings(&layout, &lines), 0);

    let tangled = scattered(200, 50, 8);
    let layout = Layout::of(200, 50, &tangled);
    let (left, right) = ((0..200).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    let before = crossings(&left, &right, &tangled);
    let after = drawn_crossings(&layout, &tangled);
    assert!(u64::try_from(after).unwrap() * 2 < before, "{after} of {before}");
}

#[test]
fn crossings_are_counted_as_by_comparing_every_pair() {
    let lines = scattered(30, 12, 5);
    let (left, right) = ((0..30).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    let naive = lines
        .iter()
        .flat_map(|one| lines.iter().map(move |other| (one, other)))
        .filter(|(one, other)| one.0 < other.0 && one.1 > other.1)
        .count();
    assert_eq!(crossings(&left, &right, &lines), u64::try_from(naive).unwrap());
}

#[test]
fn nodes_do_not_overlap_and_nodes_without_lines_have_no_place() {
    for (secrets, servers, each) in [(200, 50, 4), (3, 50, 2), (1, 1, 1), (1_000, 50, 64), (50, 50, 1)] {
        let lines = scattered(secrets, servers, each);
        let layout = Layout::of(secrets + 1, servers + 1, &lines);
        assert_apart(&layout.left, layout.height);
        assert_apart(&layout.right, layout.height);
        for (left, right) in &lines {
            assert!(layout.left[*left].is_some() && layout.right[*right].is_some());
        }
        assert_eq!((layout.left[secrets], layout.right[servers]), (None, None));
    }
}

#[test]
fn a_server_stands_beside_the_middle_of_its_secrets() {
    let layout = Layout::of(5, 1, &[(0, 0), (1, 0), (2, 0), (3, 0), (4, 0)]);
    assert_eq!(layout.right[0], layout.left[2]);
    assert_eq!(layout.height, 5 * ROW);
}

#[test]
fn several_servers_beside_the_first_secret_stay_inside_of_the_drawing() {
    let lines = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (3, 2), (4, 2)];
    let layout = Layout::of(5, 3, &lines);
    assert_apart(&layout.left, layout.height);
    assert_apart(&layout.right, layout.height);
}

#[test]
fn an_empty_graph_has_no_height() {
    let layout = Layout::of(3, 2, &[]);
    assert_eq!(layout.height, 0);
    assert!(layout.left.iter().chain(&layout.right).all(Option::is_none));
}
