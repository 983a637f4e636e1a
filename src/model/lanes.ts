/**
 * Where a step stands in the lanes that are drawn beside the list, as in a git log.
 *
 * Steps keep the order of their cells. A line keeps a lane to itself from parent to child, so that it passes through
 * no other step. Where lines join, the step stands on the leftmost of them; where they part, the child on which most
 * hangs goes straight on.
 */

export interface ILaneStep {
  readonly name: string;
  readonly parents: ReadonlyArray<string>;
}

export interface ILaneEdge {
  /** The rows of the parent and of the child. */
  readonly from: number;
  readonly to: number;
  /** The lane of the line in the rows between. */
  readonly lane: number;
}

export interface ILanes {
  /** The lane of each row. */
  readonly lanes: ReadonlyArray<number>;
  readonly edges: ReadonlyArray<ILaneEdge>;
  readonly width: number;
}

type Edge = Omit<ILaneEdge, 'lane'>;

/** Lay the steps out; a parent that is not above its child is left out of the picture. */
export function layOut(steps: ReadonlyArray<ILaneStep>): ILanes {
  const rows = new Map(steps.map((step, row) => [step.name, row]));
  const wanted = shortened(
    steps.map(step =>
      [...new Set(step.parents)]
        .map(parent => rows.get(parent))
        .filter((row): row is number => row !== undefined)
    )
  );
  const below = depths(steps.length, wanted);
  const lanes: number[] = [];
  const edges: ILaneEdge[] = [];
  // For each lane, the row that the line on it leads to.
  const open: (number | null)[] = [];
  const free = (): number => {
    const found = open.indexOf(null);
    return found < 0 ? open.length : found;
  };
  steps.forEach((_, row) => {
    const joined = open.indexOf(row);
    const lane = joined < 0 ? free() : joined;
    lanes.push(lane);
    open.forEach((to, at) => {
      open[at] = to === row ? null : to;
    });
    const [straightOn, ...others] = wanted
      .filter(edge => edge.from === row)
      .sort((one, other) => below[other.to] - below[one.to] || one.to - other.to);
    if (straightOn) {
      open[lane] = straightOn.to;
      edges.push({ ...straightOn, lane });
    }
    for (const edge of others.sort((one, other) => one.to - other.to)) {
      const beside = free();
      open[beside] = edge.to;
      edges.push({ ...edge, lane: beside });
    }
  });
  return {
    lanes,
    edges,
    width: Math.max(0, ...[...lanes, ...edges.map(edge => edge.lane)].map(lane => lane + 1))
  };
}

/** How many steps follow each other below a row, at most. */
function depths(count: number, edges: ReadonlyArray<Edge>): number[] {
  const below = new Array<number>(count).fill(0);
  for (let row = count - 1; row >= 0; row--) {
    for (const { from, to } of edges) {
      if (from === row) {
        below[row] = Math.max(below[row], below[to] + 1);
      }
    }
  }
  return below;
}

/** The edges that no longer way stands for: who waits for a child of a step waits for that step too. */
function shortened(parents: ReadonlyArray<ReadonlyArray<number>>): Edge[] {
  const above: Set<number>[] = [];
  const edges: Edge[] = [];
  parents.forEach((given, to) => {
    const direct = given.filter(from => from < to);
    const further = new Set(direct.flatMap(from => [...above[from]]));
    above.push(new Set([...direct, ...further]));
    edges.push(...direct.filter(from => !further.has(from)).map(from => ({ from, to })));
  });
  return edges;
}
