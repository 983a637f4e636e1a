/**
 * Files and folders that were logged: a file's picture or its first lines, a folder's files, all of them downloads.
 */

import * as React from 'react';

import type { IFileEntry, IFileList } from '../api/schema';
import { fileKind, IContents, isPicture, isShowable, lastOf, Look } from '../model/contents';
import { counted, size as sized } from '../model/format';
import { LinkButton } from './shared';

/** Files of a folder, and pictures in it, that are shown before more are asked for. */
const FEW_FILES = 100;
const FEW_PICTURES = 12;

export interface IDownloadProps {
  readonly digest: string;
  readonly name: string;
  readonly contents: IContents;
}

/** A link that has the browser keep a file. */
export function Download({ digest, name, contents }: IDownloadProps): JSX.Element {
  return (
    <a
      className="jp-mlb-Link jp-mlb-Download"
      href={contents.downloadUrl(digest, name)}
      download={lastOf(name)}
      title={`Download ${lastOf(name)}`}
      aria-label={`Download ${name}`}
      onClick={event => event.stopPropagation()}
    >
      Download
    </a>
  );
}

export interface IFileLookProps extends IDownloadProps {
  readonly size: number;
  readonly isWhole: boolean;
}

/** What can be shown of a file: of a card only a picture. */
export function FileLook(props: IFileLookProps): JSX.Element {
  const { digest, name, size, contents, isWhole } = props;
  const host = React.useRef<HTMLDivElement>(null);
  const isAsked = isWhole ? isShowable(name, size) : isPicture(name, size);
  const isSeen = useSeen(host, isAsked);
  const { value, problem } = useAsked<Look>(isSeen, () => contents.look(digest, name), [
    contents,
    digest,
    name
  ]);
  return (
    <div ref={host} className="jp-mlb-FileLook" data-kind={value?.kind ?? 'asked'}>
      {problem ? (
        <p className="jp-mlb-Preview-words">{problem}</p>
      ) : value ? (
        <Shown look={value} name={name} isWhole={isWhole} />
      ) : isAsked ? (
        <p className="jp-mlb-Preview-words">Asking for the file …</p>
      ) : (
        isWhole && <p className="jp-mlb-Preview-words">{whyNothing(name, size)}</p>
      )}
    </div>
  );
}

function whyNothing(name: string, size: number): string {
  return size === 0
    ? 'The file is empty.'
    : `A ${fileKind(name)} of ${sized(size)} is not shown here: download it to look into it.`;
}

interface IShownProps {
  readonly look: Look;
  readonly name: string;
  readonly isWhole: boolean;
}

function Shown({ look, name, isWhole }: IShownProps): JSX.Element | null {
  switch (look.kind) {
    case 'picture':
      return <img className="jp-mlb-Preview-picture" src={look.url} alt={lastOf(name)} />;
    case 'text':
      return (
        <>
          <pre className="jp-mlb-Preview-text jp-mod-file">{look.text}</pre>
          {look.isCut && <p className="jp-mlb-Preview-words">and more, which the file has</p>}
        </>
      );
    case 'table': {
      const kinds = look.head.map((_, at) =>
        look.rows.every(row => !row[at] || isNumber(row[at])) ? 'jp-mod-number' : undefined
      );
      return (
        <>
          <div className="jp-mlb-Preview-scroll" tabIndex={0} aria-label="First rows" role="region">
            <table className="jp-mlb-Preview-frame">
              <thead>
                <tr>
                  {look.head.map((value, at) => (
                    <th scope="col" key={at} className={kinds[at]}>
                      {value}
                    </th>
                  ))}
                </tr>
              </thead>
              <tbody>
                {look.rows.map((row, at) => (
                  <tr key={at}>
                    {row.map((value, place) => (
                      <td key={place} className={kinds[place]}>
                        {value}
                      </td>
                    ))}
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
          {look.isCut && (
            <p className="jp-mlb-Preview-words">first {counted(look.rows.length, 'row')}</p>
          )}
        </>
      );
    }
    case 'nothing':
      return isWhole ? (
        <p className="jp-mlb-Preview-words">
          It is neither a picture nor a text: download it to look into it.
        </p>
      ) : null;
  }
}

function isNumber(value: string): boolean {
  return value.trim() !== '' && Number.isFinite(Number(value));
}

export interface IFolderFilesProps {
  readonly digest: string;
  readonly name: string;
  readonly count: number;
  /** What is not kept of it. */
  readonly leftOut: ReadonlyArray<string>;
  readonly contents: IContents;
  readonly isWhole: boolean;
}

/** The files of a folder, each to be downloaded; on a page with those that are pictures. */
export function FolderFiles(props: IFolderFilesProps): JSX.Element {
  const { digest, count, leftOut, contents, isWhole } = props;
  const [isOpen, setOpen] = React.useState(isWhole);
  const { value, problem } = useAsked<IFileList>(
    isOpen && count > 0,
    () => contents.files(digest),
    [contents, digest]
  );
  if (!count) {
    return <p className="jp-mlb-Preview-words">The folder holds no files.</p>;
  }
  const body = (
    <>
      {problem && <p className="jp-mlb-Preview-words">{problem}</p>}
      {!problem && !value && <p className="jp-mlb-Preview-words">Asking for its files …</p>}
      {value && <Files {...props} files={value.files} links={value.links} />}
      {leftOut.length > 0 && (
        <p className="jp-mlb-Preview-words">
          Not kept, since they are no files: {leftOut.join(', ')}
        </p>
      )}
    </>
  );
  return isWhole ? (
    body
  ) : (
    <details
      className="jp-mlb-Preview-more"
      open={isOpen}
      onToggle={event => setOpen(event.currentTarget.open)}
    >
      <summary>{counted(count, 'file')}</summary>
      {isOpen && body}
    </details>
  );
}

interface IFilesProps extends IFolderFilesProps {
  readonly files: ReadonlyArray<IFileEntry>;
  readonly links: { readonly [path: string]: string };
}

function Files({ files, links, contents, isWhole }: IFilesProps): JSX.Element {
  const [most, setMost] = React.useState(FEW_FILES);
  const [mostPictures, setMostPictures] = React.useState(FEW_PICTURES);
  const pictures = isWhole ? files.filter(({ path, size }) => isPicture(path, size)) : [];
  return (
    <>
      {pictures.length > 0 && (
        <div className="jp-mlb-Gallery">
          {pictures.slice(0, mostPictures).map(({ path, digest, size }) => (
            <figure key={path}>
              <FileLook
                digest={digest}
                name={path}
                size={size}
                contents={contents}
                isWhole={false}
              />
              <figcaption title={path}>{path}</figcaption>
            </figure>
          ))}
        </div>
      )}
      {pictures.length > mostPictures && (
        <LinkButton onClick={() => setMostPictures(mostPictures * 4)}>
          Show more pictures
        </LinkButton>
      )}
      <table className="jp-mlb-FileList">
        <tbody>
          {files.slice(0, most).map(({ path, digest, size }) => (
            <tr key={path}>
              <td title={path}>
                <span className="jp-mod-quiet">{path.slice(0, path.lastIndexOf('/') + 1)}</span>
                {lastOf(path)}
              </td>
              <td className="jp-mod-number jp-mod-quiet">{sized(size)}</td>
              <td className="jp-mod-number">
                <Download digest={digest} name={path} contents={contents} />
              </td>
            </tr>
          ))}
          {Object.entries(links).map(([path, target]) => (
            <tr key={path}>
              <td title={path}>{path}</td>
              <td colSpan={2} className="jp-mod-quiet">
                leads to {target}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
      {files.length > most && (
        <LinkButton onClick={() => setMost(most * 5)}>
          Show {counted(files.length - most, 'more file')}
        </LinkButton>
      )}
    </>
  );
}

interface IAsked<T> {
  readonly value: T | null;
  readonly problem: string | null;
}

/** What an answer holds, once it has come; asked for once it is wanted. */
function useAsked<T>(
  isWanted: boolean,
  ask: () => Promise<T>,
  about: ReadonlyArray<unknown>
): IAsked<T> {
  const [asked, setAsked] = React.useState<IAsked<T>>({ value: null, problem: null });
  React.useEffect(() => {
    if (!isWanted) {
      return;
    }
    let isCurrent = true;
    ask().then(
      value => isCurrent && setAsked({ value, problem: null }),
      error =>
        isCurrent &&
        setAsked({ value: null, problem: error instanceof Error ? error.message : String(error) })
    );
    return () => {
      isCurrent = false;
    };
    // What is asked is told by what it is about: `ask` is another function each time.
  }, [isWanted, ...about]);
  return asked;
}

/** Whether something has come into sight, from then on. */
function useSeen(host: React.RefObject<HTMLElement>, isWanted: boolean): boolean {
  const [isSeen, setSeen] = React.useState(false);
  React.useEffect(() => {
    if (!host.current || !isWanted || isSeen) {
      return;
    }
    const observer = new IntersectionObserver(
      entries => entries.some(each => each.isIntersecting) && setSeen(true),
      { rootMargin: '200px' }
    );
    observer.observe(host.current);
    return () => observer.disconnect();
  }, [host, isWanted, isSeen]);
  return isSeen;
}
