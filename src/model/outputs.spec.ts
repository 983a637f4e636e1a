import { OutputAreaModel } from '@jupyterlab/outputarea';

import { IMessage, LateOutput, merged, sameOutputs } from './outputs';
import { appended } from './run';

const stream = (text: string, name = 'stdout'): IMessage => ({ output_type: 'stream', name, text });
const display = (text: string, id?: string): IMessage => ({
  output_type: 'display_data',
  data: { 'text/plain': text },
  metadata: {},
  ...(id ? { transient: { display_id: id } } : {})
});
const update = (text: string, id: string): IMessage => ({
  ...display(text, id),
  output_type: 'update_display_data'
});
const clear = (wait: boolean): IMessage => ({ output_type: 'clear_output', wait });

function shown(...messages: IMessage[]): string[] {
  const model = new OutputAreaModel({ trusted: true });
  const late = new LateOutput('e', model);
  messages.forEach(message => late.apply(message));
  return model.toJSON().map(output => {
    const plain = output as unknown as {
      text?: string | string[];
      data?: { 'text/plain': string };
    };
    return plain.data ? plain.data['text/plain'] : [plain.text ?? ''].flat().join('');
  });
}

describe('late output', () => {
  it('pieces of one stream grow together, and another stream begins a new output', () => {
    expect(shown(stream('a'), stream('b\n'), stream('!', 'stderr'), stream('c'))).toEqual([
      'ab\n',
      '!',
      'c'
    ]);
  });

  it('a progress bar draws over its own line', () => {
    expect(shown(stream('10 %\r'), stream('20 %\r'), stream('done\n'))).toEqual(['done\n']);
  });

  it('a display is updated where it stands', () => {
    expect(shown(display('one', 'x'), stream('between'), update('two', 'x'))).toEqual([
      'two',
      'between'
    ]);
  });

  it('an update of a display that is not there shows nothing', () => {
    expect(shown(update('two', 'x'))).toEqual([]);
  });

  it('clearing takes everything at once', () => {
    expect(shown(stream('old'), clear(false))).toEqual([]);
  });

  it('clearing that waits keeps the old until there is something new', () => {
    expect(shown(stream('old'), clear(true))).toEqual(['old']);
    expect(shown(stream('old'), clear(true), stream('new'))).toEqual(['new']);
  });

  it('a result carries the number of its own cell', () => {
    const model = new OutputAreaModel({ trusted: true });
    const result = { ...display('x'), output_type: 'execute_result', execution_count: 0 };
    new LateOutput('e', model, 7).apply(result);
    expect(model.toJSON()[0].execution_count).toBe(7);
  });

  it('filling replaces what was there, and the output goes on from it', () => {
    const model = new OutputAreaModel({ values: [stream('half') as never] });
    const late = new LateOutput('e', model);
    late.fill([stream('whole ')]);
    late.apply(stream('and more'));
    expect(model.length).toBe(1);
    expect(JSON.stringify(model.toJSON())).toContain('whole and more');
  });
});

describe('outputs that are the same', () => {
  it('do not depend on how a stream was cut', () => {
    expect(sameOutputs([stream('ab') as never], [stream('a'), stream('b')])).toBe(true);
    expect(sameOutputs([stream('ab') as never], [stream('a')])).toBe(false);
  });

  it('do not depend on what was drawn over', () => {
    expect(sameOutputs([stream('20 %') as never], [stream('10 %\r'), stream('20 %')])).toBe(true);
  });
});

describe('live messages of the run page', () => {
  it('grow, are updated and cleared like those of a cell', () => {
    expect(appended([stream('a')], [stream('b')])).toEqual([stream('ab')]);
    expect(appended([display('one', 'x')], [update('two', 'x')])).toEqual([display('two', 'x')]);
    expect(appended([stream('a')], [clear(false), stream('b')])).toEqual([stream('b')]);
    expect(merged(appended([stream('a')], [clear(true), stream('b')]))).toEqual([stream('b')]);
  });
});
