import type { Client } from '../api/client';
import { Contents, fileKind, isPicture, isShowable, lookAt } from './contents';

const bytes = (text: string) => Uint8Array.from(text, sign => sign.charCodeAt(0));
const PNG = bytes('\x89PNG\r\n\x1a\nrest');

describe('lookAt', () => {
  it('takes a picture for one whatever it is called, and nothing else for a picture', () => {
    const look = lookAt(PNG, 'notes.txt');
    expect(look.kind === 'picture' && look.url).toMatch(/^data:image\/png;base64,iVBOR/);
    expect(lookAt(bytes('<script>act()</script>'), 'loss.png').kind).toBe('text');
    expect(lookAt(bytes('\xff\xd8\xff\xe0'), 'x').kind).toBe('picture');
    expect(lookAt(bytes('RIFFxxxxWEBPVP8 '), 'x').kind).toBe('picture');
  });

  it('shows a drawing from an address that holds all of it, so that it belongs to no site', () => {
    const look = lookAt(bytes('<svg xmlns="x"><script>act()</script></svg>'), 'loss.svg');
    expect(look.kind === 'picture' && look.url).toMatch(/^data:image\/svg\+xml;base64,/);
    expect(lookAt(bytes('hello'), 'loss.svg').kind).toBe('text');
  });

  it('shows the first lines of a text, and says that there are more', () => {
    expect(lookAt(bytes('one\r\ntwo\n'), 'a.log')).toEqual({
      kind: 'text',
      text: 'one\ntwo',
      isCut: false
    });
    const many = lookAt(bytes('x\n'.repeat(500)), 'a.log');
    expect(many.kind === 'text' && [many.text.split('\n').length, many.isCut]).toEqual([200, true]);
    const long = lookAt(bytes('x'.repeat(5000)), 'a.log');
    expect(long.kind === 'text' && [long.text.length, long.isCut]).toEqual([501, true]);
  });

  it('shows nothing of what is no text', () => {
    expect(lookAt(bytes('\x00\x01'), 'a.txt').kind).toBe('nothing');
    expect(lookAt(bytes('\xff\xfe'), 'a.txt').kind).toBe('nothing');
    expect(lookAt(bytes(' \n'), 'a.txt').kind).toBe('nothing');
  });

  it('reads a table, in which what is quoted may hold anything', () => {
    expect(lookAt(bytes('name,said\n"a, b","x ""y""\nz"\nc,\n'), 'a.csv')).toEqual({
      kind: 'table',
      head: ['name', 'said'],
      rows: [
        ['a, b', 'x "y"\nz'],
        ['c', '']
      ],
      isCut: false
    });
    const many = lookAt(bytes(`a;b\n${'1;2\n'.repeat(50)}`), 'a.csv');
    expect(many.kind === 'table' && [many.head, many.rows.length, many.isCut]).toEqual([
      ['a', 'b'],
      20,
      true
    ]);
  });
});

describe('what is asked for', () => {
  it('is what is small enough to be shown', () => {
    expect([isPicture('a/b.PNG', 10), isPicture('b.png', 5e6), isPicture('b.txt', 10)]).toEqual([
      true,
      false,
      false
    ]);
    expect([isShowable('a.bin', 1000), isShowable('a.bin', 1e6), isShowable('a', 0)]).toEqual([
      true,
      false,
      false
    ]);
  });

  it('is asked for once, and again if it could not be had', async () => {
    let asked = 0;
    const client = {
      content: async () => {
        asked += 1;
        if (asked === 1) {
          throw new Error('away');
        }
        return PNG;
      }
    };
    const contents = new Contents(client as unknown as Client, null);
    await expect(contents.look('blake3:a', 'plots/a.png')).rejects.toThrow('away');
    expect((await contents.look('blake3:a', 'plots/a.png')).kind).toBe('picture');
    await contents.look('blake3:a', 'plots/a.png');
    expect(asked).toBe(2);
  });
});

describe('fileKind', () => {
  it('says what a file is by the end of its name', () => {
    expect(['a.png', 'b.csv', 'c.md', 'd.bin', 'e', 'f.tar.gz'].map(fileKind)).toEqual([
      'PNG picture',
      'CSV table',
      'Markdown',
      'bin file',
      'file',
      'GZ archive'
    ]);
  });
});
