/**
 * Where a step stands in the lanes that are drawn beside the list, as in a git log.
 *
 * Steps keep the order of their cells. A lane belongs to a step until its last child is reached, so that no line
 * passes through the dot of a step that it has nothing to do with.
 */

export interface ILaneStep {
  readonly name: string;
  readonly parents: ReadonlyArray<string>;
}

export interface ILaneEdge {
  /** The rows of the parent and of the child. */
  readonly from: number;
  readonly to: number;
}

export interface ILanes {
  /** The lane of each row. */
  readonly lanes: ReadonlyArray<number>;
  readonly edges: ReadonlyArray<ILaneEdge>;
  readonly width: number;
}

/** Lay the steps out; a parent that is not above its child is left out of the picture. */
export function layOut(steps: ReadonlyArray<ILaneStep>): ILanes {
  const rows = new Map(steps.map((step, row) => [step.name, row]));
  const edges = shortened(
    steps.map(step =>
      [...new Set(step.parents)]
        .map(parent => rows.get(parent))
        .filter((row): row is number => row !== undefined)
    )
  );
  const lastChild: number[] = steps.map((_, row) => row);
  for (const { from, to } of edges) {
    lastChild[from] = Math.max(lastChild[from], to);
  }
  const lanes: number[] = [];
  // For each lane, the rows strictly between its dots that a line runs through, and whose line it is.
  const lines: { lane: number; first: number; last: number; from: number; to: number }[] = [];

  const isFree = (lane: number, row: number, parents: number[]): boolean => {
    if (lines.some(line => line.lane === lane && line.first <= row && row <= line.last)) {
      return false;
    }
    for (let above = 0; above < row; above++) {
      if (lanes[above] === lane && lastChild[above] > row && !parents.includes(above)) {
        return false;
      }
    }
    return parents.every(from => {
      const column = Math.max(lane, lanes[from]);
      for (let between = from + 1; between < row; between++) {
        if (lanes[between] === column) {
          return false;
        }
      }
      return true;
    });
  };

  steps.forEach((_, row) => {
    const parents = edges.filter(edge => edge.to === row).map(edge => edge.from);
    let lane = 0;
    while (!isFree(lane, row, parents)) {
      lane += 1;
    }
    lanes.push(lane);
    for (const from of parents) {
      const column = Math.max(lane, lanes[from]);
      if (row - from > 1) {
        lines.push({ lane: column, first: from + 1, last: row - 1, from, to: row });
      }
    }
  });
  return { lanes, edges, width: lanes.length ? Math.max(...lanes) + 1 : 0 };
}

/** The edges that no longer way stands for: who waits for a child of a step waits for that step too. */
function shortened(parents: ReadonlyArray<ReadonlyArray<number>>): ILaneEdge[] {
  const above: Set<number>[] = [];
  const edges: ILaneEdge[] = [];
  parents.forEach((given, to) => {
    const direct = given.filter(from => from < to);
    const further = new Set(direct.flatMap(from => [...above[from]]));
    above.push(new Set([...direct, ...further]));
    edges.push(...direct.filter(from => !further.has(from)).map(from => ({ from, to })));
  });
  return edges;
}
