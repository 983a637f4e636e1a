import { ILaneStep, layOut } from './lanes';

function steps(text: string): ILaneStep[] {
  return text.split(';').map(line => {
    const [name, parents = ''] = line.trim().split('<');
    return {
      name: name.trim(),
      parents: parents
        .split(',')
        .map(each => each.trim())
        .filter(Boolean)
    };
  });
}

describe('lanes', () => {
  it.each([
    ['a chain keeps one lane', 'a; b<a; c<b', [0, 0, 0]],
    ['a step beside another gets a lane of its own', 'a; b<a; c<b; d<b; e<c,d', [0, 0, 0, 1, 0]],
    ['two beginnings stand side by side until they join', 'a; b; c<a,b', [0, 1, 0]],
    ['steps that have nothing to do with each other share a lane', 'a; b; c', [0, 0, 0]],
    ['a long edge passes beside the steps between', 'a; b; c; d<a', [0, 1, 1, 0]],
    ['a join of three returns to the first lane', 'a; b<a; c<a; d<a; e<b,c,d', [0, 0, 1, 2, 0]],
    [
      'the steps of the example end where they began',
      'load; features<load; baseline<features; train<features,load; evaluate<load,features,baseline,train',
      [0, 0, 0, 1, 0]
    ],
    ['what nothing hangs on stands aside', 'a; look<a; b<a; c<b', [0, 1, 0, 0]],
    ['a lane that has ended is taken again', 'a; b<a; c<a; d<c; e<c', [0, 1, 0, 0, 1]]
  ])('%s', (_, text, lanes) => {
    expect(layOut(steps(text)).lanes).toEqual(lanes);
  });

  it('an edge that a longer way stands for is not drawn', () => {
    expect(layOut(steps('a; b<a; c<a,b')).edges).toEqual([
      { from: 0, to: 1, lane: 0 },
      { from: 1, to: 2, lane: 0 }
    ]);
  });

  it('a parent that is unknown or further down is left out', () => {
    expect(layOut(steps('a<z,b; b')).edges).toEqual([]);
  });

  it('no line passes through the dot of a step that it has nothing to do with', () => {
    let seed = 7;
    const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
    for (let round = 0; round < 200; round++) {
      const count = 2 + Math.floor(random() * 10);
      const made: ILaneStep[] = Array.from({ length: count }, (_, row) => ({
        name: `s${row}`,
        parents: Array.from({ length: row }, (__, above) => `s${above}`).filter(
          () => random() < 0.3
        )
      }));
      const { lanes, edges } = layOut(made);
      for (const { from, to, lane } of edges) {
        for (let row = from + 1; row < to; row++) {
          expect([made, row, lanes[row]]).not.toEqual([made, row, lane]);
        }
      }
    }
  });
});
